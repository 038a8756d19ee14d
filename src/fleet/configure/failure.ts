/** Which script failed: read from the driver's step log, in which dpkg's own status lines stand too (dpkg(1), --status-fd). Pure. */

export interface Failure {
  unit: string | null;
  script: string | null;
}

const SUBPROCESS: Record<string, string> = {
  'pre-installation': 'preinst',
  'post-installation': 'postinst',
  'pre-removal': 'prerm',
  'post-removal': 'postrm',
};

/** The failure that a step log ends with. */
export function failureFromSteps(steps: string): Failure {
  const lines = steps.split('\n');
  for (const line of lines) {
    const own = /^failed script (\S+) (\S+) \d+$/.exec(line);
    if (own) return { unit: own[1]!, script: own[2]! };
    const dpkg = /^status: ([^\s:]+)(?::\S+)? : error : (.*)$/.exec(line);
    if (dpkg) {
      const kind = /(pre-installation|post-installation|pre-removal|post-removal) script/.exec(dpkg[2]!);
      return { unit: dpkg[1]!, script: kind ? SUBPROCESS[kind[1]!]! : null };
    }
  }
  if (lines.some((line) => line.startsWith('failed '))) return { unit: null, script: null };
  // Killed in the middle: the last thing that was begun.
  for (const line of lines.reverse()) {
    const own = /^script (\S+) (\S+)$/.exec(line);
    if (own) return { unit: own[1]!, script: own[2]! };
    const dpkg = /^processing: (configure|trigproc): ([^\s:]+)/.exec(line);
    if (dpkg) return { unit: dpkg[2]!, script: 'postinst' };
  }
  return { unit: null, script: null };
}

/** The last `lines` lines of an output. */
export function lastLines(output: string, lines = 40): string {
  return output.trimEnd().split('\n').slice(-lines).join('\n');
}
