/** Every limit of Strata in one place. A limit that is met answers with code LIMIT (or an errno), never a crash. */

export const LIMITS = {
  /** Bytes of one file name; Linux NAME_MAX. */
  nameBytes: 255,
  /** Bytes of a path inside a layer; Linux PATH_MAX less the NUL. */
  pathBytes: 4095,
  /** Bytes of a symbolic link's target. */
  symlinkBytes: 4095,
  /** Entries of one layer unit. */
  layerEntries: 4_000_000,
  /** Bytes of all files of one layer unit. */
  layerBytes: 256 * 2 ** 30,
  /** Bytes of a package's control member, unpacked. */
  controlBytes: 64 * 2 ** 20,
  /** Bytes of one deb822 stanza. */
  stanzaBytes: 4 * 2 ** 20,
  /** Bytes of one extended attribute value; XATTR_SIZE_MAX. */
  xattrValueBytes: 65536,
  /** Bytes of all extended attributes of one entry in an archive. */
  xattrTotalBytes: 1 << 20,
  /** Rules of a policy, those of all ancestors together. */
  policyRules: 4096,
  /** Layers of one stack. */
  stackLayers: 16384,
  /** References of LDFs to LDFs. */
  ldfDepth: 32,
  /** Bytes of an LDF. */
  ldfBytes: 16 * 2 ** 20,
  /** Snapshots of one appliance. */
  snapshots: 1000,
  /** Characters of the name of a repository, template or appliance. */
  objectNameChars: 128,
  /** Appliances of one create command. */
  createCount: 100_000,
  /** Bytes of one HTTP request to stratad. */
  requestBytes: 64 * 2 ** 20,
  /** Times a compressed member may grow when unpacked, above 64 MiB. */
  expansionRatio: 2000,
} as const;
