/** `strata layer ...`: layer units. */
import { resolve } from 'node:path';
import type { CommandSpec, OptionSpec } from '../command.ts';
import { countOf, formatBytes } from '../format.ts';
import { flag, maybe, optionalWord, pathOption, splitLayer, text, word, wordList } from '../words.ts';

const toRepo: OptionSpec = {
  long: '--repo',
  value: 'NAME',
  kind: 'repo',
  required: true,
  description: 'repository that receives the units',
};

export const LAYER_COMMANDS: CommandSpec[] = [
  {
    path: 'layer import',
    summary: 'Import packages and archives as layer units',
    details: 'FILE is a .deb, .rpm, a tar archive (plain, gz, xz, zst) or an OCI archive.',
    args: [{ name: 'FILE', description: 'package or archive', kind: 'file', variadic: true }],
    options: [toRepo],
    examples: [['strata layer import ./agent_2.1_amd64.deb --repo local', 'a package that is in no archive']],
    run: async (invocation) => {
      const result = await invocation.context.call('layerImport', {
        files: wordList(invocation, 0).map((file) => resolve(file)),
        repo: text(invocation, 'repo')!,
      });
      return {
        json: result,
        human: (print) => {
          for (const unit of result.units) print.line(`${unit.repo}/${unit.layer} ${unit.version}`);
        },
      };
    },
  },
  {
    path: 'layer build',
    summary: 'Build a layer unit from a directory tree',
    details:
      'DIR is a tree as `make install DESTDIR=DIR` leaves it; its owners, modes and attributes are kept.',
    args: [{ name: 'DIR', description: 'the tree', kind: 'dir' }],
    options: [
      toRepo,
      { long: '--name', value: 'N', required: true, description: 'name of the layer' },
      { long: '--version', value: 'V', required: true, description: 'version of the unit' },
      {
        long: '--depends',
        value: 'D',
        description: "what it needs, in Debian's syntax: 'nginx (>= 1.22), libc6'",
      },
      { long: '--pre-depends', value: 'D', description: 'what must be configured before its scripts run' },
      { long: '--conflicts', value: 'D', description: 'what it cannot be together with' },
      { long: '--provides', value: 'D', description: 'what else it satisfies' },
      { long: '--replaces', value: 'D', description: 'whose files it may take over' },
      {
        long: '--scripts',
        value: 'DIR',
        kind: 'dir',
        description: 'directory with pre-install, post-install, pre-remove, post-remove',
      },
      { long: '--infer', description: 'add the dependencies that its ELF files imply' },
    ],
    examples: [
      ['strata layer build ./dest --repo local --name hello --version 2', 'a new version of an own layer'],
      [
        "strata layer build ./dest --repo local --name app --version 1.0 --infer --depends 'redis-server'",
        'libraries inferred, a service declared',
      ],
    ],
    run: async (invocation) => {
      const unit = await invocation.context.call('layerBuild', {
        dir: resolve(word(invocation, 0)),
        repo: text(invocation, 'repo')!,
        name: text(invocation, 'name')!,
        version: text(invocation, 'version')!,
        ...maybe('depends', text(invocation, 'depends')),
        ...maybe('preDepends', text(invocation, 'preDepends')),
        ...maybe('conflicts', text(invocation, 'conflicts')),
        ...maybe('provides', text(invocation, 'provides')),
        ...maybe('replaces', text(invocation, 'replaces')),
        ...maybe('scripts', pathOption(invocation, 'scripts')),
        infer: flag(invocation, 'infer'),
      });
      return {
        json: unit,
        human: (print) => print.line(`built ${unit.repo}/${unit.layer} ${unit.version}`),
      };
    },
  },
  {
    path: 'layer list',
    summary: 'List layer units',
    args: [{ name: 'REPO', description: 'only of this repository', kind: 'repo', optional: true }],
    options: [
      { long: '--available', description: 'everything that is offered, not only what is on this host' },
      { long: '--match', value: 'TEXT', description: 'only layers whose name contains this' },
    ],
    examples: [
      ['strata layer list', 'the units on this host'],
      ['strata layer list main --available --match nginx', 'what the archive offers'],
    ],
    run: async (invocation) => {
      const result = await invocation.context.call('layerList', {
        ...maybe('repo', optionalWord(invocation, 0)),
        ...maybe('match', text(invocation, 'match')),
        ...(flag(invocation, 'available') ? { available: true } : {}),
      });
      return {
        json: result,
        human: (print) =>
          print.table(
            ['LAYER', 'VERSION', 'HERE', 'DESCRIPTION'],
            result.layers.map((l) => [
              `${l.repo}/${l.layer}`,
              l.version,
              l.local ? 'yes' : 'no',
              l.description,
            ]),
            'no layer units',
          ),
      };
    },
  },
  {
    path: 'layer show',
    summary: 'Show the metadata of a layer',
    args: [
      { name: 'REPO/NAME', description: 'the layer', kind: 'offered' },
      { name: 'VERSION', description: 'one unit of it; default the newest', kind: 'text', optional: true },
    ],
    examples: [['strata layer show main/nginx-light', 'its versions, relations and size']],
    run: async (invocation) => {
      const result = await invocation.context.call('layerShow', {
        ...splitLayer(word(invocation, 0)),
        ...maybe('version', optionalWord(invocation, 1)),
      });
      return {
        json: result,
        human: (print) => {
          const { metadata } = result;
          const facts: [string, string | undefined][] = [
            ['Layer', `${result.repo}/${metadata.layer}`],
            ['Version', metadata.version],
            ['Versions', result.versions.join(' ')],
            ['Category', metadata.category],
            ['Here', result.local ? 'yes' : 'no'],
            ['Files', result.files === undefined ? undefined : String(result.files)],
            ['Bytes', result.bytes === undefined ? undefined : formatBytes(result.bytes)],
            ['Architecture', metadata.architecture],
            ['Pre-Depends', metadata.preDepends],
            ['Depends', metadata.depends],
            ['Recommends', metadata.recommends],
            ['Conflicts', metadata.conflicts],
            ['Breaks', metadata.breaks],
            ['Provides', metadata.provides],
            ['Replaces', metadata.replaces],
            ['Description', metadata.description],
          ];
          for (const [field, value] of facts) if (value) print.line(`${field}: ${value}`);
        },
      };
    },
  },
  {
    path: 'layer verify',
    summary: 'Compare units on disk with their indexes',
    details: 'Exits with status 1 when something differs.',
    args: [
      { name: 'REPO/NAME', description: 'only this layer, or only this REPO', kind: 'layer', optional: true },
    ],
    examples: [
      ['strata layer verify', 'every unit on this host'],
      ['strata layer verify main/nginx-light', 'one layer'],
    ],
    run: async (invocation) => {
      const which = optionalWord(invocation, 0);
      const request = which === undefined ? {} : which.includes('/') ? splitLayer(which) : { repo: which };
      const result = await invocation.context.call('layerVerify', request);
      return {
        json: result,
        status: result.problems.length === 0 ? 0 : 1,
        human: (print) => {
          for (const p of result.problems) print.line(`${p.unit}: ${p.path}: ${p.problem}`);
          const units = countOf(result.checked, 'unit');
          print.line(
            result.problems.length === 0
              ? `${units} checked, all intact`
              : `${units} checked, ${countOf(result.problems.length, 'problem')}`,
          );
        },
      };
    },
  },
  {
    path: 'layer remove',
    summary: 'Delete one unit that nothing uses',
    args: [
      { name: 'REPO/NAME', description: 'the layer', kind: 'layer' },
      { name: 'VERSION', description: 'the unit', kind: 'text' },
    ],
    examples: [['strata layer remove local/hello 1', 'an old version']],
    run: async (invocation) => {
      const { repo, layer } = splitLayer(word(invocation, 0));
      const version = word(invocation, 1);
      await invocation.context.call('layerRemove', { repo, layer, version });
      return {
        json: { removed: { repo, layer, version } },
        human: (print) => print.line(`removed ${repo}/${layer} ${version}`),
      };
    },
  },
];
