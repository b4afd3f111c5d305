using Sharpvisor.Core.Block;

namespace Sharpvisor.Testing.Block;

/// <summary>A drive in memory for tests of controllers: its requests complete at once, or when the test says so.</summary>
public sealed class MemoryDrive(int sectors, string name = "memory") : IBlockDrive
{
    private readonly List<BlockRequest> _held = [];
    private byte[] _bytes = new byte[sectors * IBlockImage.SectorSize];

    public event Action? MediumChanged;

    public string Name => name;

    public bool HasMedium { get; private set; } = true;

    public long SectorCount => HasMedium ? _bytes.Length / IBlockImage.SectorSize : 0;

    public bool IsReadOnly { get; init; }

    public bool CanDiscard { get; init; }

    public bool WriteCache { get; set; } = true;

    /// <summary>What is on the medium.</summary>
    public byte[] Bytes => _bytes;

    public byte[] Copy(int start, int length) => _bytes.AsSpan(start, length).ToArray();

    /// <summary>Requests wait for <see cref="CompleteNext"/>.</summary>
    public bool HoldsRequests { get; set; }

    public int HeldRequests => _held.Count;

    /// <summary>How the following requests end.</summary>
    public BlockError Error { get; set; }

    /// <summary>What was asked, in order: operation, offset, length in bytes, and the flag.</summary>
    public List<(BlockOperation Operation, long Offset, long Length, bool Flag)> Requests { get; } = [];

    public void Submit(BlockRequest request)
    {
        request.Begin();
        Requests.Add((request.Operation, request.Offset, request.Length, request.Flag));
        _held.Add(request);
        if (!HoldsRequests)
            CompleteNext();
    }

    /// <param name="index">Which of those that wait, in the order in which they came.</param>
    public void CompleteNext(int index = 0)
    {
        var request = _held[index];
        _held.RemoveAt(index);
        if (Error == BlockError.None && request.Offset + request.Length > _bytes.Length)
            throw new InvalidOperationException($"{request.Operation} of {request.Length} at {request.Offset}: a device has to check the range");
        if (Error == BlockError.None)
            Perform(request);
        request.Complete(Error);
    }

    public void Drain()
    {
        while (_held is [var request, ..])
        {
            _held.RemoveAt(0);
            request.Complete(BlockError.Canceled);
        }
    }

    /// <param name="bytes">Null: the medium is taken out.</param>
    public void ChangeMedium(byte[]? bytes)
    {
        _bytes = bytes ?? [];
        HasMedium = bytes is not null;
        MediumChanged?.Invoke();
    }

    private void Perform(BlockRequest request)
    {
        var at = _bytes.AsSpan((int)request.Offset, (int)request.Length);
        switch (request.Operation)
        {
            case BlockOperation.Read:
                request.Buffers.CopyFrom(at);
                break;
            case BlockOperation.Write:
                request.Buffers.CopyTo(at);
                break;
            case BlockOperation.Discard or BlockOperation.WriteZeroes:
                at.Clear();
                break;
        }
    }
}
