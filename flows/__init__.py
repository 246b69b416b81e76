"""Operations: every one a flow of steps that runs forward, or back."""
