"""Operations: what is computed, on which operands, how it is checked, and what it costs."""
