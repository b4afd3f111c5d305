namespace Conformance.Fuzzing;

/// <summary>Tests that take over the process's signal handlers run one after the other.</summary>
[CollectionDefinition("native code", DisableParallelization = true)]
public sealed class NativeCollection;
