// Kinds of TFTP packets, and error codes.
// Follows: RFC 1350, 5 and its appendix; RFC 2347.

namespace Sharpvisor.Backends.Net.User.Services.Tftp;

/// <summary>The first two bytes of a packet (RFC 1350, 5; RFC 2347).</summary>
internal enum TftpOpcode : ushort
{
    ReadRequest = 1,
    WriteRequest = 2,
    Data = 3,
    Acknowledgment = 4,
    Error = 5,
    OptionAcknowledgment = 6,
}

/// <summary>Codes of <see cref="TftpOpcode.Error"/>.</summary>
internal enum TftpError : ushort
{
    Other = 0,
    FileNotFound = 1,
    AccessViolation = 2,
    IllegalOperation = 4,
    UnknownTransfer = 5,
}
