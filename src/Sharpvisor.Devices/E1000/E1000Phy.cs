// Follows: IEEE 802.3, 22.2.4; Intel's manual of the 8254x family (317453), 13.4.9.
namespace Sharpvisor.Devices.E1000;

/// <summary>The M88E1000 PHY behind MDIC (IEEE 802.3, 22.2.4; Intel's manual, 13.4.9): 1000 Mb/s, full duplex, agreed at once.</summary>
internal sealed class E1000Phy
{
    private const uint DataMask = 0xFFFF, OpWrite = 1 << 26, OpRead = 2 << 26, OpMask = 3 << 26, Ready = 1 << 28, Error = 1 << 30;
    private const int Control = 0, Status = 1, Address = 1;
    private const ushort ResetBit = 0x8000, RestartBit = 0x0200, LinkUp = 0x0004;

    private readonly ushort[] _registers = new ushort[32];

    public E1000Phy() => Reset();

    public bool IsLinkUp { get; set; } = true;

    public void Reset()
    {
        Array.Clear(_registers);
        (_registers[Control], _registers[Status], _registers[2], _registers[3]) = (0x1140, 0x7969, 0x0141, 0x0C20);
        // What is offered, what the partner offers, 1000BASE-T control and status, PHY specific control and status.
        (_registers[4], _registers[5], _registers[9], _registers[10], _registers[16], _registers[17]) = (0x0DE1, 0x45E0, 0x0E00, 0x7C00, 0x0360, 0xAC00);
        _registers[20] = 0x0D60;
    }

    /// <summary>Does what MDIC asks for.</summary>
    /// <param name="isRestart">The link is to be agreed on again.</param>
    /// <returns>What MDIC reads as then.</returns>
    public uint Access(uint command, out bool isRestart)
    {
        isRestart = false;
        var (register, phy) = ((int)(command >> 16 & 31), (int)(command >> 21 & 31));
        if (phy != Address)
            return command | Ready | Error;
        switch (command & OpMask)
        {
            case OpRead:
                return (command & ~DataMask) | Read(register) | Ready;
            case OpWrite when register == Control && (command & ResetBit) != 0:
                Reset();
                isRestart = true;
                break;
            case OpWrite when register == Control:
                _registers[Control] = (ushort)(command & DataMask & ~(uint)RestartBit);
                isRestart = (command & RestartBit) != 0;
                break;
            case OpWrite when register is 4 or 9 or 16 or 20:
                _registers[register] = (ushort)command;
                break;
        }

        return command | Ready;
    }

    private ushort Read(int register) => register switch
    {
        Status => (ushort)(_registers[Status] | (IsLinkUp ? LinkUp : 0)),
        17 => (ushort)(IsLinkUp ? _registers[17] : _registers[17] & ~0x0400),
        _ => _registers[register],
    };
}
