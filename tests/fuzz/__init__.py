"""Coverage-guided fuzzing: one surface a file, each a function of bytes; and the inputs that were found worth keeping.

A *surface* (`surfaces/`) reads its bytes as somebody hostile would send them and raises only when something is wrong: an
error that is not the documented one, two copies that disagree, a bound that does not hold, too much work. `__main__`
fuzzes the surfaces for some seconds each, `worker` is one such process, and `test_corpus` replays what is in `corpus/`
with every run of the tests, without the fuzzer.
"""
