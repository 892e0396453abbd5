"""Arrays as callers give them: checked, seen flat in the order of memory, and given back."""
