/** A Debian package becomes a layer unit: streamed once, in bounded memory, hashed on the way. */
import { asStrataError, nameFromText } from '../base/index.ts';
import type { DebPackage } from '../formats/contract.ts';
import { formatStanza, metadataFromDebControl, openDeb } from '../formats/index.ts';
import { addBaseLinks } from './base-links.ts';
import type { ImportOptions, LayerUnit } from './contract.ts';
import { conffilePaths, writeInfoFiles } from './dpkg-info.ts';
import { takeIn } from './intake.ts';
import { makeUnit, type UnitScript } from './make-unit.ts';
import { sharedLibsOfPackage } from './shared-libs.ts';
import { BASE_LAYER, isMergeLink } from './usr-merge.ts';

const SCRIPT_NAMES: Record<string, UnitScript> = {
  preinst: 'pre-install',
  postinst: 'post-install',
  prerm: 'pre-remove',
  postrm: 'post-remove',
};

/**
 * Imports a .deb file into `options.repoDir`. A unit of the same name and version that is there already is returned as it is. Throws
 * BAD_FORMAT or LIMIT for a package that is damaged or hostile, IO and NO_SPACE; then the repository is as before.
 */
export async function importDeb(file: string, options: ImportOptions): Promise<LayerUnit> {
  const deb = await openDeb(file, { isAllowedSymlinkParent: isMergeLink }).catch((error: unknown) => {
    throw asStrataError(error);
  });
  const metadata = metadataFromDebControl(deb.control);
  const { layer, version, category } = metadata;
  return makeUnit({ ...options, layer, version, category, label: `${layer} ${version}` }, async (writer) => {
    const conffiles = conffilePaths(deb);
    const intake = await takeIn(deb.entries(), writer, {
      label: `${layer} ${version}`,
      debianOwners: true,
      md5Of: new Set(conffiles),
    });
    if (layer === BASE_LAYER) addBaseLinks(writer, metadata.architecture ?? 'all', intake.newestSec);
    await writeInfoFiles(writer, deb, intake.paths, intake.newestSec);
    return {
      metadata,
      control: controlText(deb),
      conffiles: conffiles
        .filter((path) => intake.md5.has(path))
        .map((path) => `/${path} ${intake.md5.get(path)}\n`)
        .join(''),
      scripts: scriptsOf(deb),
      sharedLibs: sharedLibsOfPackage(deb),
    };
  });
}

function controlText(deb: DebPackage): Uint8Array {
  const stored = deb.controlFiles.get('control')?.bytes;
  return stored ?? Buffer.from(nameFromText(formatStanza(deb.control)), 'latin1');
}

function scriptsOf(deb: DebPackage): Map<UnitScript, Uint8Array> {
  const scripts = new Map<UnitScript, Uint8Array>();
  for (const [name, script] of Object.entries(SCRIPT_NAMES)) {
    const file = deb.controlFiles.get(name);
    if (file !== undefined) scripts.set(script, file.bytes);
  }
  return scripts;
}
