using System.Globalization;

namespace Sharpvisor.Cpu.Tests.Smp;

/// <summary>How often a race is tried: SMP_STRESS=n multiplies it.</summary>
internal static class Iterations
{
    private static readonly int s_factor = int.TryParse(Environment.GetEnvironmentVariable("SMP_STRESS"), NumberStyles.None, CultureInfo.InvariantCulture, out var n) ? n : 1;

    public static int Of(int count) => count * s_factor;
}
