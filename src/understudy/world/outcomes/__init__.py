"""How a call goes: what decides it, and in which words failures say so."""
