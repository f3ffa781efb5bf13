"""Moving an adapter to another LLM (Eq. 5-6): transfer, check, fold, distil and export."""
