/**
 * Tells the story of the quickstart: each step with its sentence, the command line that does the same, what came of it and how
 * long it took. A step that does not hold what it says ends the story.
 */
import { StrataError } from '../../base/index.ts';
import { formatDuration } from '../format.ts';

export interface StepTime {
  step: string;
  command: string;
  elapsed_ms: number;
  /** Nothing had to be done: an earlier run left it. */
  reused: boolean;
}

export interface Narrator {
  readonly times: StepTime[];
  /** Says what happens, does it, says what `work` found. */
  step<R>(o: { title: string; command?: string }, work: () => Promise<R>): Promise<R>;
  /** A line about the step that runs. */
  say(line: string): void;
  /** The step that runs found its work done by an earlier run. */
  reuse(): void;
  /** A heading between steps. */
  chapter(text: string): void;
}

export interface NarratorOptions {
  write(text: string): void;
  colour: boolean;
}

export function createNarrator({ write, colour }: NarratorOptions): Narrator {
  const times: StepTime[] = [];
  const paint = (code: string, text: string) => (colour ? `\x1b[${code}m${text}\x1b[0m` : text);
  let number = 0;
  let reused = false;
  return {
    times,
    step: async ({ title, command = '' }, work) => {
      number += 1;
      reused = false;
      write(`\n${paint('1', `${String(number).padStart(2)}. ${title}`)}\n`);
      for (const line of command === '' ? [] : command.split('\n'))
        write(`    ${paint('36', `$ ${line}`)}\n`);
      const begun = performance.now();
      const result = await work();
      const elapsed_ms = performance.now() - begun;
      times.push({ step: title, command, elapsed_ms, reused });
      write(`    ${paint('2', formatDuration(elapsed_ms))}\n`);
      return result;
    },
    say: (line) => write(`    ${line}\n`),
    reuse: () => {
      reused = true;
    },
    chapter: (text) => write(`\n${text}\n`),
  };
}

/** Ends the quickstart when a step did not do what it says. */
export function must(condition: unknown, what: string): asserts condition {
  if (condition) return;
  throw new StrataError('INTERNAL', `the quickstart expected ${what}`, {
    hint: 'this is a defect of Strata; run/stratad.log and run/strata-fs.log in the state root say more',
  });
}
