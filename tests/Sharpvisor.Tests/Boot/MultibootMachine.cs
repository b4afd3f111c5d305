using Sharpvisor.Boot;
using Sharpvisor.Tests.Guests;

namespace Sharpvisor.Tests.Boot;

/// <summary>A machine of 32 MiB with <see cref="MultibootKernel"/> and two modules.</summary>
internal static class MultibootMachine
{
    public static MachineBuilder Builder(string engine, byte[] kernel) => Machine.CreateBuilder()
        .WithMemory(32 << 20)
        .WithEngine(GuestEngines.Create(engine))
        .WithKernel(BootSource.FromBytes(kernel, "kernel"))
        .WithModule(BootSource.FromBytes("first module"u8.ToArray(), "one"))
        .WithModule(BootSource.FromBytes("second"u8.ToArray(), "two"), "with arguments")
        .WithCommandLine("quiet ü")
        .WithDebugExit(0xF4, 4);
}
