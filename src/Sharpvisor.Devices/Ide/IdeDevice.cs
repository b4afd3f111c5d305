// What a disk and a CD-ROM drive on an ATA channel have in common: phases of a command, data by PIO and DMA.
// Follows: ATA/ATAPI-7 volume 1, 6 (commands); volume 2, 11 (protocols: PIO data in, PIO data out, DMA, non-data).

using Sharpvisor.Core.Block;

namespace Sharpvisor.Devices.Ide;

/// <summary>A device on a channel. It serves one command at a time.</summary>
public abstract class IdeDevice
{
    private readonly BlockRequest _request;
    private IdeChannel? _channel;
    private TaskFile? _registers;
    private Action<BlockError>? _afterRequest;
    private Action? _afterPio;
    private Action<BlockBuffers>? _dma;
    private int _dmaLength, _position, _end;
    private bool _isPioOut, _isAbandoned;

    private protected IdeDevice(IBlockDrive drive, int bufferSize)
    {
        Drive = drive;
        Buffer = new byte[bufferSize];
        _request = new BlockRequest(OnRequestDone);
    }

    public string Name => Drive.Name;

    public IBlockDrive Drive { get; }

    internal abstract bool IsPacketDevice { get; }

    /// <summary>INTRQ: until the host reads the status or gives a command.</summary>
    internal bool HasInterrupt { get; set; }

    private protected TaskFile Registers => _registers ?? throw new InvalidOperationException($"{Name} is on no channel");

    private protected byte[] Buffer { get; }

    private IdeChannel Channel => _channel ?? throw new InvalidOperationException($"{Name} is on no channel");

    internal void Join(IdeChannel channel, TaskFile registers)
    {
        _channel = channel;
        _registers = registers;
        PowerOn();
        Reset();
    }

    /// <summary>Settings that only switching it off forgets.</summary>
    internal abstract void PowerOn();

    /// <summary>The host asserts SRST: busy until it releases it.</summary>
    internal void HoldInReset()
    {
        Abandon();
        Registers.Status = AtaStatus.Bsy;
    }

    /// <summary>A hardware or software reset, a diagnosis, DEVICE RESET: shows the signature.</summary>
    internal void Reset()
    {
        Abandon();
        OnReset();
        // What the host's memory gets yet of an abandoned command must have come before the device is ready.
        Registers.Status = _request.IsPending ? AtaStatus.Bsy : ReadyAfterReset;
    }

    /// <summary>The host wrote the command register.</summary>
    internal void Start(byte command)
    {
        if (_request.IsPending)
        {
            Reset(); // DEVICE RESET of a packet device that is busy
            return;
        }

        StopTransfer();
        Registers.Status = AtaStatus.Drdy | AtaStatus.Bsy;
        Registers.Error = 0;
        Execute(command);
    }

    internal ushort ReadData()
    {
        if (_afterPio is null || _isPioOut)
            return 0;
        var value = (ushort)(Buffer[_position] | (Buffer[_position + 1] << 8));
        Advance();
        return value;
    }

    internal void WriteData(ushort value)
    {
        if (_afterPio is null || !_isPioOut)
            return;
        Buffer[_position] = (byte)value;
        Buffer[_position + 1] = (byte)(value >> 8);
        Advance();
    }

    /// <summary>The bus master was started, perhaps for a command of this device.</summary>
    internal void OnDmaStarted()
    {
        if (_dma is not { } transfer || !Channel.BusMaster.IsStarted)
            return;
        _dma = null;
        switch (Channel.BusMaster.Map(_dmaLength, out var buffers))
        {
            case DmaMapping.Whole:
                transfer(buffers);
                break;
            case DmaMapping.Short:
                // The host described less memory than the command moves: nothing is moved, nobody is told.
                Registers.Status = AtaStatus.Drdy | AtaStatus.Dsc;
                break;
            default:
                Abort();
                break;
        }
    }

    internal void RaiseInterrupt()
    {
        HasInterrupt = true;
        Channel.UpdateInterrupt();
    }

    private protected abstract byte ReadyAfterReset { get; }

    private protected abstract void Execute(byte command);

    /// <summary>Registers and state after a reset of the device.</summary>
    private protected abstract void OnReset();

    /// <summary>Ends a command that did what it shall.</summary>
    private protected void Succeed()
    {
        Registers.Status = AtaStatus.Drdy | AtaStatus.Dsc;
        RaiseInterrupt();
    }

    /// <summary>Ends a command with an error.</summary>
    private protected void Fail(byte error)
    {
        StopTransfer();
        Registers.Error = error;
        Registers.Status = AtaStatus.Drdy | AtaStatus.Dsc | AtaStatus.Err;
        RaiseInterrupt();
    }

    private protected void Abort() => Fail(AtaError.Abrt);

    /// <summary>Lets the host read a part of <see cref="Buffer"/> through the data port.</summary>
    /// <param name="length">In bytes; an odd one ends with a byte of padding.</param>
    private protected void PioIn(int start, int length, Action then)
    {
        StartPio(start, length, isOut: false, then);
        RaiseInterrupt();
    }

    /// <summary>Lets the host write a part of <see cref="Buffer"/> through the data port.</summary>
    private protected void PioOut(int start, int length, bool interrupt, Action then)
    {
        StartPio(start, length, isOut: true, then);
        if (interrupt)
            RaiseInterrupt();
    }

    /// <summary>Calls <paramref name="transfer"/> with the host's memory once the bus master has been started.</summary>
    private protected void WaitForDma(int length, Action<BlockBuffers> transfer)
    {
        Registers.Status = AtaStatus.Bsy | AtaStatus.Drdy | AtaStatus.Dsc;
        _dmaLength = length;
        _dma = transfer;
        OnDmaStarted();
    }

    /// <summary>The bus master has moved what <see cref="WaitForDma"/> mapped.</summary>
    /// <param name="toMemory">The device wrote it.</param>
    private protected void EndDma(bool toMemory) => Channel.BusMaster.Finish(toMemory);

    /// <summary>A request for <see cref="Submit"/>.</summary>
    private protected BlockRequest Request => _request;

    /// <summary>Begins a request; the device is busy until it is done. The last that a caller does.</summary>
    private protected void Submit(BlockRequest request, Action<BlockError> then)
    {
        Registers.Status |= AtaStatus.Bsy;
        _afterRequest = then;
        Drive.Submit(request);
    }

    private void StartPio(int start, int length, bool isOut, Action then)
    {
        _position = start;
        _end = start + ((length + 1) & ~1);
        _isPioOut = isOut;
        _afterPio = then;
        Registers.Status = AtaStatus.Drdy | AtaStatus.Dsc | AtaStatus.Drq;
    }

    private void Advance()
    {
        _position += 2;
        if (_position < _end)
            return;
        var then = _afterPio!;
        _afterPio = null;
        Registers.Status &= unchecked((byte)~AtaStatus.Drq);
        then();
    }

    private void StopTransfer()
    {
        _afterPio = null;
        _dma = null;
    }

    private void Abandon()
    {
        StopTransfer();
        HasInterrupt = false;
        _isAbandoned = _request.IsPending;
    }

    private void OnRequestDone(BlockRequest request)
    {
        var then = _afterRequest;
        _afterRequest = null;
        if (!_isAbandoned)
        {
            then?.Invoke(request.Error);
            return;
        }

        _isAbandoned = false;
        Channel.BusMaster.Finish(toMemory: true);
        if (!Channel.IsInReset)
            Registers.Status = ReadyAfterReset;
        Channel.OnBusMasterStarted(); // what the other device has waited for meanwhile
    }
}
