/** What a person can see of a state root through its commands, without times: what "before" and "after" of a command mean. */
import { existsSync, lstatSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Fleet } from '../../src/fleet/contract.ts';

export type Source = Pick<
  Fleet,
  'repoList' | 'layerList' | 'templateList' | 'templateShow' | 'list' | 'show' | 'diff'
>;

export interface Picture {
  repositories: string[];
  layers: string[];
  templates: Record<string, unknown>;
  appliances: Record<string, unknown>;
}

/** `without`: appliances whose private content is looked at in another way. */
export async function pictureOf(source: Source, root: string, without: string[] = []): Promise<Picture> {
  const repositories = (await source.repoList()).map(({ name, kind, units }) => `${name} ${kind} ${units}`);
  const { layers } = await source.layerList({});
  const picture: Picture = {
    repositories: repositories.sort(),
    layers: layers.map(({ repo, layer, version }) => `${repo}/${layer} ${version}`).sort(),
    templates: {},
    appliances: {},
  };
  for (const { name } of (await source.templateList()).templates) {
    const { ldf, generation, units, appliances } = await source.templateShow(name);
    picture.templates[name] = { ldf, generation, units, appliances };
  }
  for (const { name, mac, template } of (await source.list()).appliances) {
    const { ldf, layers: count, generation, held_back, parent, snapshots, expires } = await source.show(name);
    const isMachine = existsSync(join(root, 'machines', mac, 'state.json'));
    const family = { parent: parent ?? null, snapshots: snapshots ?? 0, ends: expires !== undefined };
    const seen = { mac, template, generation, held_back, ldf, count, isMachine, family };
    if (without.includes(name)) picture.appliances[name] = seen;
    else {
      const { entries } = await source.diff({ name });
      const diff = entries.map(({ path, change }) => `${change} ${path}`).sort();
      // Of frozen layers that were not merged yet, files count that show.
      const files = Object.entries(ownFiles(root, name)).filter(([path]) =>
        diff.some((line) => line.endsWith(` ${path}`)),
      );
      picture.appliances[name] = { ...seen, diff, files: Object.fromEntries(files) };
    }
  }
  return picture;
}

/** What an appliance has of its own: in its private layer, and in those that were frozen. */
export function ownFiles(root: string, name: string): Record<string, string> {
  const dir = join(root, 'appliances', name);
  const { frozen = [] } = JSON.parse(readFileSync(join(dir, 'state.json'), 'utf8')) as { frozen?: string[] };
  const trees = [dir, ...frozen.map((id) => join(root, 'frozen', id))];
  return Object.assign({}, ...trees.reverse().map((tree) => filesBelow(join(tree, 'private'))));
}

/** Content of every plain file below a directory. */
export function filesBelow(dir: string): Record<string, string> {
  const files: Record<string, string> = {};
  if (!existsSync(dir)) return files;
  for (const path of readdirSync(dir, { recursive: true, encoding: 'utf8' }).sort())
    if (lstatSync(join(dir, path)).isFile()) files[`/${path}`] = readFileSync(join(dir, path), 'utf8');
  return files;
}
