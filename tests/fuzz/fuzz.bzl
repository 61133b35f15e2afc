"""stagefs_fuzz: a fuzzer beside the code that it fuzzes. docs/testing.md#fuzzing."""

def stagefs_fuzz(name, deps, srcs = None, size = "small", tags = []):
    """A file with LLVMFuzzerTestOneInput() as a target that is one of two things.

    With --config=fuzz it is a libFuzzer binary. Otherwise it is a test that runs the function over the fuzzer's corpus,
    tests/fuzz/corpus/NAME, so that what a fuzzer once found stays found.

    Args:
      name: unique in the tree, since it names the corpus; ends in _fuzz.
      deps: what the code needs.
      srcs: NAME.cc, unless said otherwise.
      size: as for any test.
      tags: as for any test.
    """
    native.cc_test(
        name = name,
        size = size,
        srcs = srcs or [name + ".cc"],
        args = ["tests/fuzz/corpus/" + name],
        data = ["//tests/fuzz:corpus_" + name],
        linkopts = select({
            "//tests/fuzz:fuzzing": ["-fsanitize=fuzzer"],
            "//conditions:default": [],
        }),
        tags = tags + ["fuzz"],
        deps = deps + select({
            "//tests/fuzz:fuzzing": [],
            "//conditions:default": ["//tests/fuzz:replay_main"],
        }),
    )
