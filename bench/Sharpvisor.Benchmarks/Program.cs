using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using Perfolizer.Horology;

// In this process: the settings of the runtime are those of the product (docs/decisions/0003-tiered-jit.md), and no
// project is generated and restored inside this tree.
var job = Job.Default.WithToolchain(InProcessEmitToolchain.Instance)
    .WithIterationTime(TimeInterval.FromMilliseconds(200)).WithWarmupCount(5).WithIterationCount(10);
var config = ManualConfig.Create(DefaultConfig.Instance).AddJob(job).HideColumns(Column.Error, Column.Median);
BenchmarkSwitcher.FromAssembly(typeof(Program).Assembly).Run(args, config);
