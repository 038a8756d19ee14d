/** All commands, in the order of the help. */
import { type CommandSpec, GROUPS } from '../command.ts';
import { APPLIANCE_COMMANDS } from './appliance.ts';
import { CHANGES_COMMANDS } from './changes.ts';
import { DAEMON_COMMANDS } from './daemon.ts';
import { FAMILY_COMMANDS } from './family.ts';
import { HELP_COMMANDS } from './help.ts';
import { IMPORT_COMMAND } from './import.ts';
import { LAYER_COMMANDS } from './layer.ts';
import { MOUNT_COMMANDS } from './mount.ts';
import { POLICY_COMMANDS } from './policy.ts';
import { QUOTA_COMMAND } from './quota.ts';
import { REPO_COMMANDS } from './repo.ts';
import { RUN_COMMAND } from './run.ts';
import { SCAN_COMMAND } from './scan.ts';
import { STATUS_COMMAND } from './status.ts';
import { TEMPLATE_COMMANDS } from './template.ts';
import { UPDATE_COMMANDS } from './update.ts';
import { UPKEEP_COMMANDS } from './upkeep.ts';

export const COMMANDS: readonly CommandSpec[] = [
  ...REPO_COMMANDS,
  ...LAYER_COMMANDS,
  ...TEMPLATE_COMMANDS,
  ...UPDATE_COMMANDS,
  ...APPLIANCE_COMMANDS,
  IMPORT_COMMAND,
  ...MOUNT_COMMANDS,
  RUN_COMMAND,
  ...CHANGES_COMMANDS,
  ...FAMILY_COMMANDS,
  ...POLICY_COMMANDS,
  QUOTA_COMMAND,
  STATUS_COMMAND,
  SCAN_COMMAND,
  ...UPKEEP_COMMANDS,
  ...DAEMON_COMMANDS,
  ...HELP_COMMANDS,
];

/** The command that these words call, or null. */
export function findCommand(words: readonly string[]): CommandSpec | null {
  return COMMANDS.find((command) => command.path === words.join(' ')) ?? null;
}

/** What may follow these words: commands and groups with their summaries. */
export function subcommandsOf(words: readonly string[]): { word: string; summary: string }[] {
  const prefix = words.length === 0 ? '' : `${words.join(' ')} `;
  const found = new Map<string, string>();
  for (const { path, summary, hidden } of COMMANDS) {
    if (hidden || !path.startsWith(prefix)) continue;
    const [first, ...more] = path.slice(prefix.length).split(' ');
    const text = more.length > 0 ? (GROUPS[prefix + first!] ?? summary) : summary;
    if (!found.has(first!)) found.set(first!, text);
  }
  return [...found].map(([one, summary]) => ({ word: one, summary }));
}
