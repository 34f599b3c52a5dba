/* Lets chosen calls of a process fail: compiled by the tests, loaded with LD_PRELOAD.
 *
 * A process arms it for itself with fault_arm. From then on the nth call of that kind on a path
 * that contains a text fails, and with `sticky` each one after it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char armed[16];   /* the call; empty: none */
static char text[256];   /* which the path contains; empty: any */
static int error_number, nth, sticky, count;

void fault_arm(const char *call, int error, int which, int stays, const char *path) {
    snprintf(text, sizeof text, "%s", path);
    error_number = error, nth = which, sticky = stays, count = 0;
    snprintf(armed, sizeof armed, "%s", call);
}

/* How many calls matched since it was armed. */
int fault_count(void) { return __atomic_load_n(&count, __ATOMIC_SEQ_CST); }

static int strikes(const char *call, const char *path, const char *other) {
    if (!armed[0] || strcmp(armed, call)) return 0;
    if (!(path && strstr(path, text)) && !(other && strstr(other, text))) return 0;
    int now = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (nth == 0 || now < nth || (now > nth && !sticky)) return 0;
    errno = error_number;
    return 1;
}

static int strikes_fd(const char *call, int fd) {
    char link[32], path[512];
    if (!armed[0] || strcmp(armed, call)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0 || path[0] != '/') return 0; /* a pipe or a socket */
    path[length] = 0;
    return strikes(call, path, NULL);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }
#define KIND(flags) (((flags) & (O_CREAT | O_WRONLY | O_RDWR)) ? "create" : "open")
#define FKIND(mode) (strpbrk(mode, "wa+") ? "create" : "open")

int open(const char *path, int flags, ...) {
    MODE(flags)
    return strikes(KIND(flags), path, NULL) ? -1 : REAL(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE(flags)
    return strikes(KIND(flags), path, NULL) ? -1 : REAL(open64)(path, flags, mode);
}
int openat(int dir, const char *path, int flags, ...) {
    MODE(flags)
    return strikes(KIND(flags), path, NULL) ? -1 : REAL(openat)(dir, path, flags, mode);
}
int openat64(int dir, const char *path, int flags, ...) {
    MODE(flags)
    return strikes(KIND(flags), path, NULL) ? -1 : REAL(openat64)(dir, path, flags, mode);
}
FILE *fopen(const char *path, const char *mode) {
    return strikes(FKIND(mode), path, NULL) ? NULL : REAL(fopen)(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    return strikes(FKIND(mode), path, NULL) ? NULL : REAL(fopen64)(path, mode);
}

#define ON_FD(call, type, name, parameters, arguments, failed) \
    type name parameters { return strikes_fd(call, fd) ? (failed) : REAL(name) arguments; }
ON_FD("read", ssize_t, read, (int fd, void *to, size_t size), (fd, to, size), -1)
ON_FD("read", ssize_t, pread, (int fd, void *to, size_t n, off_t at), (fd, to, n, at), -1)
ON_FD("read", ssize_t, pread64, (int fd, void *to, size_t n, off64_t at), (fd, to, n, at), -1)
ON_FD("write", ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size), -1)
ON_FD("write", ssize_t, pwrite, (int fd, const void *from, size_t n, off_t at), (fd, from, n, at), -1)
ON_FD("write", ssize_t, pwrite64, (int fd, const void *from, size_t n, off64_t at), (fd, from, n, at), -1)
ON_FD("write", ssize_t, writev, (int fd, const struct iovec *parts, int n), (fd, parts, n), -1)
ON_FD("fsync", int, fsync, (int fd), (fd), -1)
ON_FD("fsync", int, fdatasync, (int fd), (fd), -1)
ON_FD("chmod", int, fchmod, (int fd, mode_t mode), (fd, mode), -1)
ON_FD("truncate", int, ftruncate, (int fd, off_t size), (fd, size), -1)
ON_FD("truncate", int, ftruncate64, (int fd, off64_t size), (fd, size), -1)
ON_FD("stat", int, fstat, (int fd, struct stat *to), (fd, to), -1)
ON_FD("stat", int, fstat64, (int fd, struct stat64 *to), (fd, to), -1)
ON_FD("mmap", void *, mmap, (void *at, size_t size, int may, int flags, int fd, off_t start), (at, size, may, flags, fd, start), MAP_FAILED)
ON_FD("mmap", void *, mmap64, (void *at, size_t size, int may, int flags, int fd, off64_t start), (at, size, may, flags, fd, start), MAP_FAILED)

int close(int fd) { /* a file is closed even where close reports an error */
    int struck = strikes_fd("close", fd), error = errno, result = REAL(close)(fd);
    if (!struck) return result;
    errno = error;
    return -1;
}

#define ON_PATH(call, type, name, parameters, arguments) \
    type name parameters { return strikes(call, path, NULL) ? -1 : REAL(name) arguments; }
ON_PATH("chmod", int, chmod, (const char *path, mode_t mode), (path, mode))
ON_PATH("chmod", int, fchmodat, (int dir, const char *path, mode_t mode, int flags), (dir, path, mode, flags))
ON_PATH("unlink", int, unlink, (const char *path), (path))
ON_PATH("unlink", int, unlinkat, (int dir, const char *path, int flags), (dir, path, flags))
ON_PATH("mkdir", int, mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH("stat", int, stat, (const char *path, struct stat *to), (path, to))
ON_PATH("stat", int, stat64, (const char *path, struct stat64 *to), (path, to))
ON_PATH("stat", int, lstat, (const char *path, struct stat *to), (path, to))
ON_PATH("stat", int, lstat64, (const char *path, struct stat64 *to), (path, to))
ON_PATH("stat", int, fstatat, (int dir, const char *path, struct stat *to, int flags), (dir, path, to, flags))
ON_PATH("stat", int, fstatat64, (int dir, const char *path, struct stat64 *to, int flags), (dir, path, to, flags))

#define ON_TWO(call, name, parameters, arguments) \
    int name parameters { return strikes(call, path, other) ? -1 : REAL(name) arguments; }
ON_TWO("rename", rename, (const char *path, const char *other), (path, other))
ON_TWO("rename", renameat, (int a, const char *path, int b, const char *other), (a, path, b, other))
ON_TWO("link", link, (const char *path, const char *other), (path, other))
ON_TWO("link", linkat, (int a, const char *path, int b, const char *other, int flags), (a, path, b, other, flags))
ON_TWO("link", symlink, (const char *other, const char *path), (other, path))
