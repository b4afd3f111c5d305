using System.Globalization;

namespace Sharpvisor.Servers.Control;

/// <summary>The host's threads that run processors, by the names that they have: for who pins them.</summary>
internal static class ProcessorThreads
{
    /// <returns>The id of the host's thread; that of the process where threads can't be told apart.</returns>
    public static int IdOf(int processor)
    {
        try
        {
            foreach (var task in Directory.EnumerateDirectories("/proc/self/task"))
            {
                if (File.ReadAllText(Path.Combine(task, "comm")).TrimEnd() == $"vcpu{processor}")
                    return int.Parse(Path.GetFileName(task), CultureInfo.InvariantCulture);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Another kernel than Linux, or a thread that ended while we looked.
        }

        return Environment.ProcessId;
    }
}
