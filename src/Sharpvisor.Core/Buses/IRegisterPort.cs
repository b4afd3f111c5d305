namespace Sharpvisor.Core.Buses;

/// <summary>A port that a program reads for the sake of all its registers: they are arguments and results (VMware's backdoor).</summary>
public interface IRegisterPort
{
    ushort Port { get; }

    /// <summary>An IN of 32 bits. Called with the machine's gate held.</summary>
    /// <param name="registers">EAX, ECX, EDX, EBX, ESP, EBP, ESI and EDI. Those that change are the guest's afterwards.</param>
    void Read(Span<uint> registers);
}
