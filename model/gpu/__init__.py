"""The fast path of a GPU. Modelled and tested on a CPU, never run on a GPU: every part of it can be switched off."""
