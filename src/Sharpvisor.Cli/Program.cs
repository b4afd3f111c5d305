using Sharpvisor.Cli;

// Not Console.Out and Console.Error: they put the terminal in application keypad mode, and the guest gets other keys.
using var output = new StreamWriter(Console.OpenStandardOutput()) { AutoFlush = true };
using var errors = new StreamWriter(Console.OpenStandardError()) { AutoFlush = true };
return await CommandLineTool.RunAsync(args, output, errors).ConfigureAwait(false);
