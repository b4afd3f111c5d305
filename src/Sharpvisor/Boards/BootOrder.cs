// The devices that have a boot index, by Open Firmware's paths, as SeaBIOS reads them from the file "bootorder".
using System.Text;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boards;

internal sealed class BootOrder
{
    private readonly SortedDictionary<int, string> _paths = [];

    /// <summary>Adds a device.</summary>
    /// <param name="index">The lowest is tried first.</param>
    /// <param name="path">Such as <c>/pci@i0cf8/ide@1,1/drive@0/disk@0</c>, or a ROM's <c>/rom@genroms/NAME</c>.</param>
    /// <exception cref="ConfigurationException">Another device has that index.</exception>
    public void Add(int index, string path)
    {
        if (index < 0)
            throw new ConfigurationException($"bootindex={index}: give a number from 0 on");
        if (!_paths.TryAdd(index, path))
            throw new ConfigurationException($"two devices have bootindex={index}: give each its own");
    }

    /// <summary>Puts a ROM before all devices, whatever their index.</summary>
    public void PutFirst(string path) => _paths[-1] = path;

    /// <param name="strict">Nothing else may be started.</param>
    public byte[] ToFile(bool strict)
    {
        IEnumerable<string> lines = strict ? [.. _paths.Values, "HALT"] : _paths.Values;
        var text = string.Join('\n', lines);
        return text.Length == 0 ? [] : [.. Encoding.ASCII.GetBytes(text), 0];
    }
}
