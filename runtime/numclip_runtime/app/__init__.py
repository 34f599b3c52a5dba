"""The command `numclip-run`: inputs, records, videos, galleries and the doctor."""
