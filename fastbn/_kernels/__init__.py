"""All arithmetic: how a call is cut into steps, what each of them computes, and who runs them."""
