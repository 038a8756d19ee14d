/**
 * The start of the command `strata`. Start-up is felt at every command: nothing is loaded that the command does not use
 * (bin/strata has Node keep compiled code), and completion does without the parser.
 */

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});
const argv = process.argv.slice(2);
if (argv[0] === '__complete') {
  const { printCandidates } = await import('./completion/candidates.ts');
  await printCandidates(argv.slice(1));
} else {
  const { main } = await import('./program.ts');
  process.exitCode = await main(argv);
}
