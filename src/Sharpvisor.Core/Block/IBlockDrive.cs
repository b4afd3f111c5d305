namespace Sharpvisor.Core.Block;

/// <summary>
/// A drive as a disk controller sees it: sectors, and requests that complete by themselves. All members are called with
/// the machine's gate held, and what the drive calls it calls with the gate held.
/// </summary>
public interface IBlockDrive
{
    /// <summary>For messages: "ide0-hd0".</summary>
    string Name { get; }

    /// <summary>False in a drive for removable media that is empty.</summary>
    bool HasMedium { get; }

    /// <summary>Of <see cref="IBlockImage.SectorSize"/> bytes; the last one may be longer than the image. Zero without a medium.</summary>
    long SectorCount { get; }

    bool IsReadOnly { get; }

    /// <summary>Discards reach the host.</summary>
    bool CanDiscard { get; }

    /// <summary>While false, each write is safe before it completes.</summary>
    bool WriteCache { get; set; }

    /// <summary>Raised when a medium was taken out or put in by the host's user.</summary>
    event Action? MediumChanged;

    /// <summary>
    /// Begins a request, which completes later or before this returns. Writes that overlap have no order; a flush makes
    /// safe what completed before it began.
    /// </summary>
    void Submit(BlockRequest request);

    /// <summary>
    /// Ends what is under way, for a reset of its controller: what waits for room on the host fails, and this thread, when
    /// it has left the gate, waits for the others before it does anything else.
    /// </summary>
    void Drain();
}
