namespace Sharpvisor.Debugging.Symbols;

/// <summary>
/// Remembers the kernel that a machine's guest runs, as long as it runs. Safe from any thread.
/// </summary>
public sealed class KernelCache
{
    private readonly Lock _lock = new();
    private LinuxKernel? _kernel;
    private string? _file;

    /// <summary>The kernel that runs now, see <see cref="LinuxKernel.Find(IGuestView)"/>.</summary>
    /// <param name="symbolFile">Whose symbols are wanted; null: the kernel's own.</param>
    /// <returns>Null: no kernel was found.</returns>
    /// <exception cref="Core.Guests.ConfigurationException">The file is of no use.</exception>
    public LinuxKernel? Find(IGuestView view, string? symbolFile = null)
    {
        lock (_lock)
        {
            if (_kernel is { } known && _file == symbolFile && known.IsStillThere(view))
                return known;
            _kernel = symbolFile is null ? LinuxKernel.Find(view) : LinuxKernel.Find(view, symbolFile);
            _file = symbolFile;
            return _kernel;
        }
    }
}
