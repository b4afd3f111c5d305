using Sharpvisor.Cli;

return await CommandLineTool.RunAsync(args, Console.Out, Console.Error).ConfigureAwait(false);
