/** Layer arguments of commands: `[=][REPO/]LAYER[=VERSION]`; a leading '=' holds the layer at the version that is chosen. */
import { checkObjectName, checkVersion, StrataError } from '../../base/index.ts';

export interface LayerArgument {
  repo?: string;
  layer: string;
  version?: string;
  held: boolean;
  /** As the user wrote it, for messages. */
  text: string;
}

/** Throws USAGE or BAD_NAME. */
export function parseLayerArgument(text: string): LayerArgument {
  const match = /^(=?)(?:([^/=\s@]+)\/)?([^/=\s@]+)(?:=(\S+))?$/.exec(text);
  if (!match) {
    throw new StrataError('USAGE', `${JSON.stringify(text)} does not name a layer`, {
      hint: 'write LAYER, REPO/LAYER, REPO/LAYER=VERSION, or a leading = to hold it',
    });
  }
  const argument: LayerArgument = {
    layer: checkObjectName('layer', match[3]!),
    held: match[1] === '=',
    text,
  };
  if (match[2] !== undefined) argument.repo = checkObjectName('repository', match[2]);
  if (match[4] !== undefined) argument.version = checkVersion(match[4]);
  return argument;
}
