"""Transfer of an adapter to another LLM (Eq. 5-6): move, check, fold, distil and export."""
