/** `strata help`, `strata completion`, and the hidden command the completion scripts call. */
import { StrataError } from '../../base/index.ts';
import type { CommandSpec } from '../command.ts';
import { word, wordList } from '../words.ts';

const SHELLS = ['bash', 'zsh'] as const;

export const HELP_COMMANDS: CommandSpec[] = [
  {
    path: 'help',
    summary: 'Show the help of a command',
    args: [{ name: 'COMMAND', description: 'its words', kind: 'command', optional: true, variadic: true }],
    examples: [['strata help template create', 'the same as strata template create --help']],
    run: async (invocation) => {
      const { helpFor } = await import('../program.ts');
      const text = await helpFor(wordList(invocation, 0));
      return { json: { help: text }, human: (print) => print.line(text.trimEnd()) };
    },
  },
  {
    path: 'completion',
    summary: 'Print the completion script of a shell',
    args: [{ name: 'SHELL', description: 'bash or zsh', kind: 'text' }],
    examples: [
      ['strata completion bash > /etc/bash_completion.d/strata', 'for all users of bash'],
      ["strata completion zsh > '/usr/share/zsh/vendor-completions/_strata'", 'for zsh'],
    ],
    run: async (invocation) => {
      const { completionScript } = await import('../completion/scripts.ts');
      const shell = SHELLS.find((s) => s === word(invocation, 0));
      if (!shell) {
        throw new StrataError('USAGE', `there is no completion for ${JSON.stringify(word(invocation, 0))}`, {
          hint: 'bash and zsh are known',
        });
      }
      const script = completionScript(shell);
      return { json: { shell, script }, human: (print) => print.line(script.trimEnd()) };
    },
  },
  {
    path: 'quickstart',
    summary: 'Show the whole story on this host, from Debian packages to a patched fleet',
    details:
      "Makes a template with nginx from this host's own Debian archive, three appliances, runs one, changes and reverts files in it, publishes a new version of a layer and shows that all have it; ends with the measured times. Run again, it downloads nothing.",
    options: [
      {
        long: '--port',
        value: 'PORT',
        minimum: 1,
        description: 'port for the web server; default a free one',
      },
    ],
    examples: [['strata quickstart', 'in /var/lib/strata, or $STRATA_ROOT']],
    run: async (invocation) => {
      const { quickstart } = await import('../quickstart/quickstart.ts');
      return await quickstart(invocation);
    },
  },
];
