using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

/// <summary>A file that a multiboot kernel, or Xen as the kernel of a PVH domain, finds in memory, with the string that comes with it.</summary>
/// <param name="CommandLine">As QEMU: the file's name, then its arguments.</param>
public sealed record BootModule(BootSource Source, string CommandLine)
{
    /// <summary>Takes a list as QEMU's -initrd does: "FILE args,FILE args"; a comma of a name or an argument is doubled.</summary>
    /// <exception cref="ConfigurationException">A file is not named, or can't be opened.</exception>
    public static IReadOnlyList<BootModule> OpenList(string list)
    {
        List<BootModule> modules = [];
        try
        {
            foreach (var item in Split(list))
            {
                var space = item.IndexOf(' ', StringComparison.Ordinal);
                var file = space < 0 ? item : item[..space];
                if (file.Length == 0)
                    throw new ConfigurationException($"-initrd {list}: a module without a file; give \"FILE args,FILE args\", and two commas for one in a name");
                modules.Add(new BootModule(BootSource.FromFile(file), item));
            }

            return modules;
        }
        catch
        {
            foreach (var module in modules)
                module.Source.Dispose();
            throw;
        }
    }

    private static IEnumerable<string> Split(string list)
    {
        var item = new System.Text.StringBuilder();
        for (var i = 0; i < list.Length; i++)
        {
            if (list[i] != ',')
            {
                item.Append(list[i]);
            }
            else if (i + 1 < list.Length && list[i + 1] == ',')
            {
                item.Append(',');
                i++;
            }
            else
            {
                yield return item.ToString();
                item.Clear();
            }
        }

        yield return item.ToString();
    }
}
