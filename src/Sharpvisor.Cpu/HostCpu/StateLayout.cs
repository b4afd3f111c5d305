using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>Where generated code finds things in a <see cref="CpuState"/>, in bytes from its start.</summary>
internal static unsafe class StateLayout
{
    public static readonly int Gpr, Ymm, Mxcsr, X87ControlWord;

    static StateLayout()
    {
        CpuState state;
        var start = (byte*)&state;
        Gpr = (int)((byte*)&state.Gpr - start);
        Ymm = (int)((byte*)&state.Ymm - start);
        Mxcsr = (int)((byte*)&state.Mxcsr - start);
        X87ControlWord = (int)((byte*)&state.X87 - start);
    }

    public static int GprOffset(int number) => Gpr + (8 * number);

    public static int YmmOffset(int number) => Ymm + (32 * number);
}
