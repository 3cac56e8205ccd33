"""Budgets: scaling law, memory, time, money, carbon; answers need NumPy alone, never torch."""
