/** `strata repo ...`: where layer units come from. */
import { resolve } from 'node:path';
import type { RepositoryKind } from '../../daemon/contract.ts';
import type { CommandSpec } from '../command.ts';
import { countOf } from '../format.ts';
import { maybe, pathOption, text, texts, word } from '../words.ts';

const KINDS = ['dir', 'apt', 'deb', 'rpm', 'http', 's3', 'oci'] as const satisfies RepositoryKind[];

const name = { name: 'NAME', description: 'name of the repository', kind: 'repo' } as const;

/** A directory is made absolute; `apt:SUITE` and URLs stay as they are. */
export function absoluteSource(source: string): string {
  return /^(apt:|[a-z][a-z0-9+.-]*:\/\/)/.test(source) ? source : resolve(source);
}

export const REPO_COMMANDS: CommandSpec[] = [
  {
    path: 'repo add',
    summary: 'Add a layer repository',
    details:
      "SOURCE is a directory of layer units (made when only its last part is missing), `apt:SUITE` (this host's own apt sources). Nothing is downloaded that is not used: units are mirrored when a template needs them. URLs and kinds other than dir and apt are refused: they are not supported yet.",
    args: [
      { name: 'NAME', description: 'name for the repository', kind: 'text' },
      { name: 'SOURCE', description: 'a directory, or apt:SUITE', kind: 'dir' },
    ],
    options: [
      {
        long: '--kind',
        value: 'KIND',
        choices: KINDS,
        description: 'kind of repository, when SOURCE does not tell',
      },
      {
        long: '--allow',
        value: 'PATTERN',
        repeat: true,
        description: 'offer only layers whose name matches (glob; repeatable)',
      },
      {
        long: '--deny',
        value: 'PATTERN',
        repeat: true,
        description: 'never offer layers whose name matches (glob; repeatable)',
      },
      {
        long: '--key',
        value: 'FILE',
        kind: 'file',
        description: 'public key that must have signed the source',
      },
    ],
    examples: [
      ['strata repo add main apt:bookworm', "this host's Debian archive"],
      ['strata repo add local /srv/layers', 'a directory of own layers'],
      ["strata repo add main apt:bookworm --deny 'telnet*'", 'without what a policy forbids'],
    ],
    run: async (invocation) => {
      const result = await invocation.context.call('repoAdd', {
        name: word(invocation, 0),
        source: absoluteSource(word(invocation, 1)),
        ...maybe('kind', text(invocation, 'kind') as RepositoryKind | undefined),
        allow: texts(invocation, 'allow'),
        deny: texts(invocation, 'deny'),
        ...maybe('keyFile', pathOption(invocation, 'key')),
      });
      return {
        json: result,
        human: (print) => {
          if (result.made_source) print.line(`made the directory ${result.source}, which was not there`);
          print.line(`repository ${result.name} (${result.kind}) offers ${countOf(result.units, 'unit')}`);
        },
      };
    },
  },
  {
    path: 'repo list',
    summary: 'List the repositories',
    examples: [['strata repo list', 'names, sources, and how many units are on this host']],
    run: async ({ context }) => {
      const repositories = await context.call('repoList', {});
      return {
        json: { repositories },
        human: (print) =>
          print.table(
            ['NAME', 'KIND', 'OFFERED', 'LOCAL', 'SOURCE'],
            repositories.map((r) => [r.name, r.kind, String(r.units), String(r.local), r.source]),
            'no repositories; `strata repo add` adds one',
          ),
      };
    },
  },
  {
    path: 'repo sync',
    summary: 'Read the source of a repository anew',
    args: [name],
    examples: [['apt-get update && strata repo sync main', 'see what Debian has released']],
    run: async (invocation) => {
      const result = await invocation.context.call('repoSync', { name: word(invocation, 0) });
      return {
        json: result,
        human: (print) =>
          print.line(
            `${result.name}: ${countOf(result.units, 'unit')}, ${result.added} added, ${result.removed} removed`,
          ),
      };
    },
  },
  {
    path: 'repo remove',
    summary: 'Remove a repository that nothing uses',
    args: [name],
    examples: [['strata repo remove local', 'forget it; a directory source keeps its files']],
    run: async (invocation) => {
      const removed = word(invocation, 0);
      await invocation.context.call('repoRemove', { name: removed });
      return { json: { removed }, human: (print) => print.line(`repository ${removed} removed`) };
    },
  },
  {
    path: 'repo index',
    summary: 'Rebuild the Layers database and the indexes of a repository',
    args: [name],
    examples: [['strata repo index local', 'after units were copied in by hand']],
    run: async (invocation) => {
      const result = await invocation.context.call('repoIndex', { name: word(invocation, 0) });
      return {
        json: result,
        human: (print) => print.line(`${result.name}: ${countOf(result.units, 'unit')} indexed`),
      };
    },
  },
];
