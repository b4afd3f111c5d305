namespace Sharpvisor.Boot;

/// <summary>How a kernel that is given to the machine gets to run.</summary>
public enum BootWay
{
    /// <summary>It lies in memory at power-on and is entered at once.</summary>
    Direct,

    /// <summary>Firmware runs first, and starts it by an option ROM of ours.</summary>
    Firmware,
}
