using System.Globalization;

namespace Sharpvisor.Backends.Tests.Net.User.Services;

/// <summary>
/// The random inputs of the services' tests: SHARPVISOR_NET_FUZZ is their number for each test, SHARPVISOR_NET_SEED the
/// first one's seed.
/// </summary>
internal static class FuzzSettings
{
    public static int Count { get; } = Setting("SHARPVISOR_NET_FUZZ", 400);

    public static int FirstSeed { get; } = Setting("SHARPVISOR_NET_SEED", 1);

    /// <summary>Runs a test once for each seed, and names the one that failed.</summary>
    public static void ForEachSeed(Action<Random> test)
    {
        for (var seed = FirstSeed; seed < FirstSeed + Count; seed++)
        {
            try
            {
                test(new Random(seed));
            }
            catch (Exception e)
            {
                throw new InvalidOperationException($"seed {seed}: {e.Message}", e);
            }
        }
    }

    /// <summary>Changes, removes, doubles and cuts bytes.</summary>
    public static byte[] Mutate(Random random, byte[] bytes)
    {
        var mutated = bytes.ToList();
        for (var changes = random.Next(8); changes > 0 && mutated.Count > 0; changes--)
        {
            var at = random.Next(mutated.Count);
            switch (random.Next(6))
            {
                case 0:
                    mutated[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 1:
                    mutated[at] = (byte)random.Next(256);
                    break;
                case 2:
                    mutated[at] = random.Next(2) == 0 ? (byte)0 : (byte)255;
                    break;
                case 3:
                    mutated.RemoveRange(at, Math.Min(random.Next(1, 5), mutated.Count - at));
                    break;
                case 4:
                    mutated.InsertRange(at, mutated.GetRange(at, Math.Min(random.Next(1, 20), mutated.Count - at)));
                    break;
                default:
                    if (random.Next(4) == 0)
                        mutated.RemoveRange(at, mutated.Count - at);
                    break;
            }
        }

        return [.. mutated];
    }

    private static int Setting(string name, int otherwise) =>
        Environment.GetEnvironmentVariable(name) is { Length: > 0 } text ? int.Parse(text, CultureInfo.InvariantCulture) : otherwise;
}
