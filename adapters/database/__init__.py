"""The platform database: the truth about operations and everything they made."""
