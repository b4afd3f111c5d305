// A drive: an image with what all controllers want of it. Requests run on threads that may wait for the host and
// complete under the machine's gate; errors of the host go to the guest or stop the machine until there is room again.
// Follows: QEMU's -drive for cache=, werror=, rerror=, discard= and detect-zeroes=.
// Leaves out: throttling (-drive bps=, iops=).
using Microsoft.Extensions.Logging;
using Sharpvisor.Core;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Block;

/// <summary>Owns its image.</summary>
public sealed class BlockDrive : IBlockDrive, IGateWork, IAsyncDisposable
{
    private const int ThreadLimit = 8;
    private const int LoggedErrors = 10;

    /// <summary>
    /// Up to this a read of what the host has in memory takes less time than to wake a thread for it; and as many of them
    /// at a time, so that whoever asked is not kept for long.
    /// </summary>
    private const int AtOnceLength = 64 << 10, AtOnceLimit = 8;

    private static readonly object DrainItem = new();

    private readonly DriveOptions _options;
    private readonly ILogger _logger;
    private readonly IoThreads<BlockRequest> _threads;
    private readonly List<BlockRequest> _waiting = [];
    private MachineGate _gate = new();
    private IMachineControl? _control;
    private IBlockImage? _image;
    private TaskCompletionSource? _drained;
    private int _inFlight, _atOnce, _errors;
    private bool _canceling, _disposed;

    /// <param name="image">Null: an empty drive for removable media.</param>
    /// <param name="firstSector">What the image begins with.</param>
    public BlockDrive(string name, IBlockImage? image, DriveOptions options, ILogger logger, ReadOnlyMemory<byte> firstSector = default)
    {
        FirstSector = firstSector;
        Name = name;
        _image = image;
        _options = options;
        _logger = logger;
        WriteCache = options.Cache is not (CacheMode.Writethrough or CacheMode.DirectSync);
        _threads = new IoThreads<BlockRequest>(name, ThreadLimit, Execute);
    }

    public event Action? MediumChanged;

    /// <summary>Raised when a device, or an image, threw what it should not.</summary>
    public event Action<Exception>? Faulted;

    public string Name { get; }

    public bool HasMedium => _image is not null;

    public long SectorCount => ((_image?.Length ?? 0) + IBlockImage.SectorSize - 1) / IBlockImage.SectorSize;

    public bool IsReadOnly => _image?.IsReadOnly ?? true;

    public bool CanDiscard => _image?.CanDiscard ?? false;

    public bool WriteCache { get; set; }

    /// <summary>What the image began with when the drive was made, if anybody has looked: a disk's partition table.</summary>
    public ReadOnlyMemory<byte> FirstSector { get; }

    /// <summary>The image in the drive, or null; looked at with the gate held.</summary>
    public IBlockImage? Image => _image;

    public DriveOptions Options => _options;

    /// <summary>The path of the image in the drive, or null.</summary>
    public string? ImageName => _image?.Name;

    /// <summary>Requests that have failed and are tried again by <see cref="Retry"/>.</summary>
    public int WaitingRequests => _waiting.Count;

    /// <summary>A drive with an image of the host's.</summary>
    /// <exception cref="ConfigurationException">It can't be opened, or someone else has it.</exception>
    public static BlockDrive Open(string name, string path, DriveOptions options, ILogger logger)
    {
        var image = ImageFormat.Open(path, options, logger, out var firstSector);
        return new BlockDrive(name, image, options, logger, firstSector);
    }

    /// <summary>Puts the drive into a machine. Before its first request.</summary>
    public void Connect(MachineGate gate, IMachineControl control)
    {
        _gate = gate;
        _control = control;
    }

    public void Submit(BlockRequest request)
    {
        request.Begin();
        if (_image is null)
        {
            request.Complete(BlockError.NoMedium);
            return;
        }

        _inFlight++;
        if (request is { Operation: BlockOperation.Read, Length: <= AtOnceLength } && _atOnce < AtOnceLimit && _gate.IsHeld)
        {
            Interlocked.Increment(ref _atOnce);
            _gate.AfterLeave(this, request);
            return;
        }

        _threads.Add(request);
    }

    public void Drain()
    {
        CancelWaiting();
        if (_inFlight > 0)
            _gate.AfterLeave(this, DrainItem);
    }

    bool IGateWork.TryPerform(object item)
    {
        if (item == DrainItem)
        {
            // A thread that does nothing else: what it waits for is completed by threads of the drive.
            DrainAsync(cancelWaiting: true).GetAwaiter().GetResult();
            return false;
        }

        var request = (BlockRequest)item;
        var isDone = _image is { } image && image.TryReadAtOnce(request.Offset, request.Buffers);
        Interlocked.Decrement(ref _atOnce);
        if (!isDone)
            _threads.Add(request);
        return isDone;
    }

    void IGateWork.OnPerformed(object item) => Finish((BlockRequest)item, BlockError.None);

    /// <summary>Begins what has failed again, after the machine was stopped for it. With the gate held.</summary>
    public void Retry()
    {
        foreach (var request in _waiting)
            _threads.Add(request);
        _waiting.Clear();
    }

    /// <summary>Waits until no request is left. Without the gate, and while nothing submits any.</summary>
    /// <param name="cancelWaiting">What would wait for <see cref="Retry"/> fails instead.</param>
    public Task DrainAsync(bool cancelWaiting)
    {
        using (_gate.Enter())
        {
            if (cancelWaiting)
                CancelWaiting();

            if (_inFlight == _waiting.Count)
            {
                _canceling = false;
                return Task.CompletedTask;
            }

            _drained ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            return _drained.Task;
        }
    }

    /// <summary>Takes the medium out, and puts another one in.</summary>
    /// <param name="image">Null: the drive stays empty. It belongs to the drive from now on.</param>
    public async Task ChangeMediumAsync(IBlockImage? image)
    {
        while (true)
        {
            IBlockImage? old;
            using (_gate.Enter())
            {
                old = _image;
                _image = old is null ? image : null;
                if (old is not null || image is not null)
                    MediumChanged?.Invoke();
                if (old is null)
                    return;
            }

            await DrainAsync(cancelWaiting: true).ConfigureAwait(false);
            await CloseAsync(old).ConfigureAwait(false);
            if (image is null)
                return;
        }
    }

    /// <summary>Completes what is under way, makes it safe, and closes the image. After the processors have stopped.</summary>
    public async ValueTask DisposeAsync()
    {
        if (_disposed)
            return;
        _disposed = true;
        await DrainAsync(cancelWaiting: true).ConfigureAwait(false);
        _threads.Stop();
        if (_image is not null)
            await CloseAsync(_image).ConfigureAwait(false);
    }

    private void CancelWaiting()
    {
        _canceling = true; // until all have ended
        foreach (var request in _waiting.ToArray())
        {
            _waiting.Remove(request);
            Finish(request, BlockError.Canceled);
        }

        if (_inFlight == 0)
            _canceling = false;
    }

    private async Task CloseAsync(IBlockImage image)
    {
        try
        {
            if (!image.IsReadOnly)
                await image.FlushAsync().ConfigureAwait(false);
        }
        catch (BlockException e)
        {
            _logger.LogError("{Drive}: {Image}: {Error}: what the guest wrote last may be lost", Name, image.Name, e.Message);
        }

        await image.DisposeAsync().ConfigureAwait(false);
    }

    private async void Execute(BlockRequest request)
    {
        var error = BlockError.None;
        var message = "";
        try
        {
            // A medium that was taken out since.
            if (_image is not { } image)
                error = BlockError.NoMedium;
            else
                await PerformAsync(image, request).ConfigureAwait(false);
        }
        catch (BlockException e)
        {
            error = e.Error;
            message = e.Message;
        }
        catch (Exception e)
        {
            error = BlockError.Io;
            Report(e);
        }

        try
        {
            using (_gate.Enter())
                OnDone(request, error, message);
        }
        catch (Exception e)
        {
            Report(e);
        }
    }

    private async ValueTask PerformAsync(IBlockImage image, BlockRequest request)
    {
        switch (request.Operation)
        {
            case BlockOperation.Read:
                await image.ReadAsync(request.Offset, request.Buffers).ConfigureAwait(false);
                return;
            case BlockOperation.Write when _options.DetectZeroes != ZeroDetection.Off && IsZero(request.Buffers):
                await image.WriteZeroesAsync(request.Offset, request.Length, _options.DetectZeroes == ZeroDetection.Unmap && image.CanDiscard).ConfigureAwait(false);
                break;
            case BlockOperation.Write:
                await image.WriteAsync(request.Offset, request.Buffers).ConfigureAwait(false);
                break;
            case BlockOperation.WriteZeroes:
                await image.WriteZeroesAsync(request.Offset, request.Length, request.Flag && image.CanDiscard).ConfigureAwait(false);
                break;
            case BlockOperation.Discard:
                if (image.CanDiscard)
                    await image.DiscardAsync(request.Offset, request.Length).ConfigureAwait(false);
                return;
        }

        var isSafe = request.Operation == BlockOperation.Flush || !WriteCache || (request.Operation == BlockOperation.Write && request.Flag);
        if (isSafe && _options.Cache != CacheMode.Unsafe)
            await image.FlushAsync().ConfigureAwait(false);
    }

    private static bool IsZero(BlockBuffers buffers)
    {
        foreach (var piece in buffers)
        {
            if (piece.Span.ContainsAnyExcept((byte)0))
                return false;
        }

        return true;
    }

    private void OnDone(BlockRequest request, BlockError error, string message)
    {
        if (error is not (BlockError.None or BlockError.OutOfRange or BlockError.NoMedium))
        {
            if (_errors++ < LoggedErrors)
                _logger.LogError("{Drive}: {Image}: {Operation} of {Length} bytes at {Offset}: {Error}", Name, ImageName, request.Operation, request.Length, request.Offset, message);
            switch (request.Operation == BlockOperation.Read ? _options.ReadErrors : _options.WriteErrors)
            {
                case ErrorPolicy.Ignore:
                    error = BlockError.None;
                    break;
                case ErrorPolicy.Stop:
                case ErrorPolicy.StopWhenFull when error == BlockError.NoSpace:
                    if (_canceling || _control is null)
                        break;
                    _waiting.Add(request);
                    OnFewer();
                    _control.RequestPause($"{Name}: {message}");
                    return;
            }
        }

        Finish(request, error);
    }

    private void Finish(BlockRequest request, BlockError error)
    {
        _inFlight--;
        try
        {
            request.Complete(error); // which may begin the next part of a command
        }
        finally
        {
            OnFewer();
        }
    }

    private void OnFewer()
    {
        if (_inFlight != _waiting.Count)
            return;
        _canceling = false;
        _drained?.TrySetResult();
        _drained = null;
    }

    private void Report(Exception e)
    {
        if (Faulted is { } faulted)
            faulted(e);
        else
            _logger.LogError(e, "{Drive}: internal error", Name);
    }
}
