// Follows: Intel's manual of the 8254x family (317453), 13.
namespace Sharpvisor.Devices.E1000;

/// <summary>Offsets and bits of the registers, named as in Intel's manual (13, "Register Descriptions").</summary>
internal static class E1000Registers
{
    public const uint CTRL = 0x0000, STATUS = 0x0008, EECD = 0x0010, EERD = 0x0014, MDIC = 0x0020, VET = 0x0038;
    public const uint ICR = 0x00C0, ITR = 0x00C4, ICS = 0x00C8, IMS = 0x00D0, IMC = 0x00D8;
    public const uint RCTL = 0x0100, TCTL = 0x0400;
    public const uint RDBAL = 0x2800, RDBAH = 0x2804, RDLEN = 0x2808, RDH = 0x2810, RDT = 0x2818;
    public const uint TDBAL = 0x3800, TDBAH = 0x3804, TDLEN = 0x3808, TDH = 0x3810, TDT = 0x3818;
    public const uint MPC = 0x4010, GPRC = 0x4074, BPRC = 0x4078, MPRC = 0x407C, GPTC = 0x4080, GORCL = 0x4088, GOTCL = 0x4090;
    public const uint TORL = 0x40C0, TOTL = 0x40C8, TPR = 0x40D0, TPT = 0x40D4, StatisticsStart = 0x4000, StatisticsEnd = 0x4100;
    public const uint RXCSUM = 0x5000, MTA = 0x5200, MTAEnd = 0x5400, RAL0 = 0x5400, RAEnd = 0x5480, VFTA = 0x5600, VFTAEnd = 0x5800;

    /// <summary>CTRL.</summary>
    public const uint SLU = 1 << 6, RST = 1 << 26, VME = 1 << 30;

    /// <summary>STATUS: full duplex, link up, 1000 Mb/s.</summary>
    public const uint FD = 1, LU = 2, Speed1000 = 0x80;

    /// <summary>ICR.</summary>
    public const uint TXDW = 1, TXQE = 2, LSC = 4, RXDMT0 = 0x10, RXO = 0x40, RXT0 = 0x80, MDAC = 0x200;

    /// <summary>RCTL.</summary>
    public const uint RxEnable = 2, UPE = 8, MPE = 0x10, LPE = 0x20, BAM = 0x8000, VFE = 1 << 18, BSEX = 1 << 25, SECRC = 1 << 26;

    /// <summary>TCTL.</summary>
    public const uint TxEnable = 2, PSP = 8;

    /// <summary>RAH: the address is valid.</summary>
    public const uint AV = 1u << 31;
}
