// What a person at a monitor and a program at a QMP socket can do with a machine. Refusals have the words of QEMU's.
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Display;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Input;
using Sharpvisor.Debugging;
using Sharpvisor.Debugging.Cores;
using Sharpvisor.Display;

namespace Sharpvisor.Servers.Control;

/// <summary>Each throws <see cref="ControlException"/> when it is refused, or <see cref="InvalidOperationException"/> when the machine has ended.</summary>
public sealed class MachineOperations
{
    private const int ChunkSize = 64 << 10;

    private const int MaximumPendingKeys = 256;
    private static readonly TimeSpan KeyLimit = TimeSpan.FromSeconds(5);

    private readonly ControlContext _context;
    private readonly Lock _keyLock = new();
    private Task _keys = Task.CompletedTask;
    private int _pendingKeys;

    internal MachineOperations(ControlContext context) => _context = context;

    private Machine Machine => _context.Machine;

    public Task StopAsync() => Machine.PauseAsync();

    public async Task ContinueAsync()
    {
        if (Machine is { State: RunState.Shutdown, Exit.IsCompleted: false })
            throw new ControlException("Resetting the Virtual Machine is required");
        await Machine.ResumeAsync().ConfigureAwait(false);
    }

    public Task ResetAsync() => Machine.ResetAsync();

    public void PowerDown() => Machine.PressPowerButton();

    public void WakeUp()
    {
        if (!Machine.IsSuspended)
            throw new ControlException("Unable to wake up: guest is not in suspended state");
        Machine.WakeUp();
    }

    public void Quit() => Machine.Stop("ended by quit", ShutdownCause.HostQmpQuit);

    /// <summary>A non-maskable interrupt for each processor, as by inject-nmi.</summary>
    public void InjectNmi()
    {
        using (Machine.Gate.Enter())
        {
            if (Machine.Exit.IsCompleted)
                throw new InvalidOperationException("the machine has ended");
            foreach (var processor in Machine.Processors)
                processor.RaiseNmi();
        }
    }

    /// <param name="format">"ppm" or "png".</param>
    public void Screendump(string path, string format)
    {
        if (Machine.Screen is not { } screen)
            throw new ControlException("There is no console to take a screendump from");
        if (format is not ("ppm" or "png"))
            throw new ControlException($"Invalid parameter '{format}'");
        var picture = new Framebuffer();
        screen.Capture(picture);
        WriteFile(path, file =>
        {
            if (format == "png")
                PngWriter.Write(file, picture);
            else
                PpmWriter.Write(file, picture);
        });
    }

    /// <summary>Saves memory by the address space of a processor.</summary>
    public Task SaveMemoryAsync(string path, ulong address, ulong size, int processor)
    {
        CheckProcessor(processor);
        return SaveAsync(path, address, size, (view, at, buffer) => view.ReadLinear(processor, at, buffer));
    }

    public Task SavePhysicalAsync(string path, ulong address, ulong size) =>
        SaveAsync(path, address, size, (view, at, buffer) => view.ReadPhysical(at, buffer));

    /// <summary>Writes an ELF core for gdb and crash.</summary>
    /// <param name="paging">By linear addresses, as the page tables have them, rather than physical ones.</param>
    public Task DumpAsync(string path, bool paging) => Machine.InspectAsync(view =>
    {
        GuestCore.Write(view, Machine.Memory.Ranges, path, paging);
        return true;
    });

    /// <summary>
    /// Has keys pressed together, behind those of before, and does not wait for it: a guest that reads no keys would keep
    /// whoever waits. What it has not taken after some seconds is lost.
    /// </summary>
    public void SendKeys(IReadOnlyList<Key> keys, TimeSpan hold)
    {
        if (!Machine.Parts.HasKeyboard)
            throw new ControlException("this machine has no keyboard");
        lock (_keyLock)
        {
            if (_pendingKeys >= MaximumPendingKeys)
                throw new ControlException("the guest does not read the keys that were sent before");
            _pendingKeys++;
            _keys = PressAsync(_keys, keys, hold);
        }
    }

    /// <summary>How much memory the guest is to keep, in bytes.</summary>
    public void SetBalloon(ulong bytes)
    {
        if (Machine.Balloon is not { } balloon)
            throw new ControlException(ErrorClass.DeviceNotActive, "No balloon device has been activated");
        if (bytes == 0)
            throw new ControlException("Parameter 'target' expects a size");
        balloon.SetTarget(Math.Min(bytes, Machine.Memory.Size));
    }

    /// <exception cref="ControlException">There is no such drive.</exception>
    public MachineDisk FindDisk(string device) => Machine.Parts.Disks.FirstOrDefault(d => d.Drive.Name == device)
        ?? throw new ControlException(ErrorClass.DeviceNotFound, $"Device '{device}' not found");

    /// <summary>Opens the tray; a guest that has locked it is asked to, unless forced.</summary>
    public void OpenTray(string device, bool force)
    {
        var disk = FindRemovable(device);
        bool isLocked, wasOpen;
        using (Machine.Gate.Enter())
        {
            wasOpen = disk.Cdrom!.IsTrayOpen;
            isLocked = !wasOpen && !disk.Cdrom.TryEject() && !force;
            if (!isLocked)
                disk.Cdrom.MoveTray(open: true);
        }

        if (isLocked)
            throw new ControlException($"Device '{device}' is locked and force was not specified, wait for tray to open and try again");
        if (!wasOpen)
            RaiseTray(disk, isOpen: true);
    }

    public void CloseTray(string device)
    {
        var disk = FindRemovable(device);
        bool wasOpen;
        using (Machine.Gate.Enter())
        {
            wasOpen = disk.Cdrom!.IsTrayOpen;
            disk.Cdrom.MoveTray(open: false);
        }

        if (wasOpen)
            RaiseTray(disk, isOpen: false);
    }

    public async Task RemoveMediumAsync(string device)
    {
        var disk = FindRemovable(device);
        using (Machine.Gate.Enter())
        {
            if (!disk.Cdrom!.IsTrayOpen && disk.Drive.HasMedium)
                throw new ControlException($"Tray of device '{device}' is not open");
        }

        await disk.Drive.ChangeMediumAsync(null).ConfigureAwait(false);
    }

    /// <summary>The eject button, with the medium taken out.</summary>
    public async Task EjectAsync(string device, bool force)
    {
        OpenTray(device, force);
        await RemoveMediumAsync(device).ConfigureAwait(false);
    }

    /// <summary>Puts another medium in. One that can't be opened leaves the drive as it is.</summary>
    /// <param name="format">Null: raw, which every CD image is.</param>
    public async Task ChangeMediumAsync(string device, string path, string? format, bool force)
    {
        FindRemovable(device);
        IBlockImage image;
        try
        {
            image = ImageFormat.Open(path, new DriveOptions { Format = format ?? ImageFormat.Raw, IsReadOnly = true }, _context.Logger);
        }
        catch (ConfigurationException e)
        {
            throw new ControlException($"Could not open '{path}': {e.Message}", e);
        }

        var isTaken = false;
        try
        {
            OpenTray(device, force);
            await RemoveMediumAsync(device).ConfigureAwait(false);
            isTaken = true;
            await FindDisk(device).Drive.ChangeMediumAsync(image).ConfigureAwait(false);
            RaiseTray(FindDisk(device), isOpen: false); // which a medium closes
        }
        finally
        {
            if (!isTaken)
                await image.DisposeAsync().ConfigureAwait(false);
        }
    }

    internal void CheckProcessor(int processor)
    {
        if (processor < 0 || processor >= Machine.Processors.Count)
            throw new ControlException("Invalid parameter 'cpu-index'");
    }

    private MachineDisk FindRemovable(string device)
    {
        var disk = FindDisk(device);
        return disk.IsRemovable ? disk : throw new ControlException($"Device '{device}' is not removable");
    }

    private void RaiseTray(MachineDisk disk, bool isOpen) =>
        _context.Raise("DEVICE_TRAY_MOVED", ("device", disk.Drive.Name), ("id", disk.Drive.Name), ("tray-open", isOpen));

    private delegate int MemoryReader(MachineDebugger view, ulong address, Span<byte> buffer);

    private Task SaveAsync(string path, ulong address, ulong size, MemoryReader read) => Machine.InspectAsync(view =>
    {
        WriteFile(path, file =>
        {
            var buffer = new byte[ChunkSize];
            for (ulong done = 0; done < size;)
            {
                var part = buffer.AsSpan(0, (int)Math.Min(size - done, ChunkSize));
                var count = read(view, address + done, part);
                file.Write(part[..count]);
                if (count < part.Length)
                    throw new ControlException($"Invalid addr 0x{address + done + (ulong)count:x16}/size {size} specified");
                done += (ulong)count;
            }
        });
        return true;
    });

    private async Task PressAsync(Task before, IReadOnlyList<Key> keys, TimeSpan hold)
    {
        await before.ConfigureAwait(false);
        using var limit = new CancellationTokenSource(hold + KeyLimit);
        try
        {
            await Machine.Keyboard.PressAsync(keys, hold, limit.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (e is OperationCanceledException or InvalidOperationException)
        {
            // The guest reads none, or the machine has ended.
        }
        finally
        {
            lock (_keyLock)
                _pendingKeys--;
        }
    }

    private static void WriteFile(string path, Action<Stream> write)
    {
        try
        {
            using var file = File.Create(path);
            write(file);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            throw new ControlException($"Could not open '{path}': {e.Message.TrimEnd('.')}", e);
        }
    }
}
