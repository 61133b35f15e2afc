"""static_library: one archive with the objects of its dependencies, for programs that are built without Bazel."""

def _static_library_impl(ctx):
    objects = []
    for dep in ctx.attr.deps:
        for linker_input in dep[CcInfo].linking_context.linker_inputs.to_list():
            for library in linker_input.libraries:
                # Position independent ones: the archive may become part of a shared library.
                objects.extend(library.pic_objects or library.objects or [])
    archive = ctx.actions.declare_file("lib%s.a" % ctx.label.name)
    arguments = ctx.actions.args()
    arguments.add_all([archive])
    arguments.add_all(objects)
    ctx.actions.run_shell(
        outputs = [archive],
        inputs = objects,
        arguments = [arguments],
        command = "rm -f \"$1\" && ar rcsD \"$@\"",
        mnemonic = "StaticLibrary",
    )
    return [DefaultInfo(files = depset([archive]))]

static_library = rule(
    implementation = _static_library_impl,
    attrs = {"deps": attr.label_list(providers = [CcInfo])},
)
