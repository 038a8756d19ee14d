/**
 * `strata run NAME [options] [--] [CMD...]`: options may stand behind NAME, while everything from `--` or the first
 * other word on is the command's own. This moves such options before NAME, where the parser takes them.
 */
import { COMMON_OPTIONS, type CommandSpec } from './command.ts';

/** The same command line in the order the parser wants; other commands are returned as they are. */
export function hoistRunOptions(argv: string[], spec: CommandSpec): string[] {
  const takesValue = new Set(
    [...COMMON_OPTIONS, ...(spec.options ?? [])]
      .filter((o) => o.value !== undefined)
      .map((o) => o.long as string),
  );
  const optionsFrom = (start: number): number => {
    let at = start;
    while (at < argv.length && argv[at]!.startsWith('-') && argv[at] !== '--') {
      at += takesValue.has(argv[at]!) ? 2 : 1;
    }
    return Math.min(at, argv.length);
  };
  const command = optionsFrom(0);
  if (argv[command] !== spec.path) return argv;
  const name = optionsFrom(command + 1);
  if (name >= argv.length || argv[name] === '--') return argv;
  const end = optionsFrom(name + 1);
  const rest = argv[end] === '--' ? argv.slice(end + 1) : argv.slice(end);
  return [...argv.slice(0, name), ...argv.slice(name + 1, end), argv[name]!, ...rest];
}
