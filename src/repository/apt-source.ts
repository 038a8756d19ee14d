/** `apt:SUITE[/COMPONENT]`: which of the host's own apt sources a repository reads. */
import { StrataError } from '../base/index.ts';

export interface AptSource {
  /** Codename or suite, e.g. bookworm; its pockets (bookworm-updates, bookworm-security) belong to it. */
  suite: string;
  component: string | null;
  /** Canonical text of the source. */
  text: string;
}

/** Throws USAGE for what is not of that form. */
export function parseAptSource(source: string): AptSource {
  const m = /^apt:([A-Za-z0-9][A-Za-z0-9._+-]*)(?:\/([A-Za-z0-9][A-Za-z0-9._+-]*))?$/.exec(source);
  if (m === null || source.length > 256) {
    throw new StrataError('USAGE', `${JSON.stringify(source)} is not an apt source`, {
      hint: 'write apt:SUITE or apt:SUITE/COMPONENT, for example apt:bookworm or apt:bookworm/main',
    });
  }
  return { suite: m[1]!, component: m[2] ?? null, text: source };
}

/** Whether one of a target's names (codename, suite, release) is the suite or one of its pockets. */
export function belongsToSuite(source: AptSource, names: readonly string[]): boolean {
  return names.some((name) => name === source.suite || name.startsWith(`${source.suite}-`));
}
