using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Parsing.Xl;

internal static class XlValues
{
    /// <summary>--xl FILE: all that the file says, as the flags that it stands for.</summary>
    public static void Apply(RunSettings settings, string path)
    {
        var domain = XlDomain.Translate(path, XlFile.Read(path));
        settings.Notes.AddRange(domain.Notes);
        var flags = domain.Flags;
        for (var i = 0; i < flags.Count; i++)
        {
            var flag = flags[i];
            List<string> args = [];
            if (flag.Name.Length > 0)
            {
                args.AddRange([$"-{flag.Name}", flag.Value]);
            }
            else
            {
                // Flags as they are, each in several strings.
                for (; i < flags.Count && flags[i].Name.Length == 0; i++)
                    args.Add(flags[i].Value);
                i--;
            }

            try
            {
                RunFlags.Apply(settings, args);
            }
            catch (ConfigurationException e)
            {
                throw domain.Error(flag.Line, flag.Key, e.Message, e);
            }
        }
    }
}
