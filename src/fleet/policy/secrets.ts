/**
 * The policies that Strata offers for well-known secrets: where the usual programs keep them. `--secrets` switches all on. They are text like those
 * that people write, so `strata policy show NAME` says what each rule protects.
 */

import { OFFERED_POLICIES } from '../contract.ts';

const TEXTS: Record<(typeof OFFERED_POLICIES)[number], string> = {
  'secrets-ssh': `
# host keys of sshd: a fork makes its own at its first start
exclude /etc/ssh/ssh_host_*_key*

# private keys of users
exclude **/.ssh/id_*
# private keys of users, under other names
exclude **/.ssh/*.pem
# private keys of users, under other names
exclude **/.ssh/*_key
# private key of protocol 1
exclude **/.ssh/identity
# open connections that could be shared
exclude **/.ssh/control*
`,
  'secrets-passwords': `
# password hashes: all accounts stay, with passwords that match nothing
substitute /etc/shadow = locked-passwords

# password hashes of groups
substitute /etc/gshadow = locked-passwords

# earlier versions of the password files
exclude /etc/*shadow-
# former passwords
exclude /etc/security/opasswd
# Kerberos keys of the host and tickets of users
exclude /etc/krb5.keytab
# Kerberos tickets of users
exclude /tmp/krb5cc_*
# Samba's password hashes
exclude /var/lib/samba/private/
# passwords that debconf was told at installations
exclude /var/cache/debconf/passwords.dat*
`,
  'secrets-machine': `
# the machine's identity: empty, so that systemd makes a new one at the first start
substitute /etc/machine-id = empty

# D-Bus's copy of the machine's identity
exclude /var/lib/dbus/machine-id
# seeds of the random number generator, which two machines must not share
exclude /var/lib/systemd/random-seed
# the key that seals systemd's credentials
exclude /var/lib/systemd/credential.secret
# what a cloud told the machine at its start, passwords and keys too
exclude /var/lib/cloud/instance*
`,
  'secrets-cloud': `
# Amazon Web Services: access keys
exclude **/.aws/credentials
# Amazon Web Services: sessions
exclude **/.aws/sso/
# Amazon Web Services: cached tokens
exclude **/.aws/cli/
# Google Cloud: accounts and tokens
exclude **/.config/gcloud/
# Google Cloud: service account of gsutil
exclude .boto
# Microsoft Azure
exclude .azure/
# Oracle Cloud
exclude .oci/
# DigitalOcean
exclude **/.config/doctl/
# Hetzner Cloud
exclude **/.config/hcloud/
# Linode
exclude **/.config/linode-cli
# Alibaba Cloud
exclude .aliyun/
# IBM Cloud
exclude .bluemix/
# OpenStack: passwords of projects
exclude clouds.yaml
# OpenStack: passwords of projects
exclude **/openstack/secure.yaml
# s3cmd
exclude .s3cfg
# rclone: credentials of all its remotes
exclude rclone.conf
# Terraform: tokens
exclude credentials.tfrc.json
# Pulumi: tokens
exclude **/.pulumi/credentials.json
# Fly.io
exclude **/.fly/config.yml
`,
  'secrets-tokens': `
# git: stored passwords
exclude .git-credentials
# git: stored passwords
exclude **/.config/git/credentials
# passwords for ftp, curl, git and others
exclude .netrc
# GitHub's command line
exclude **/.config/gh/hosts.yml
# GitHub's older command line
exclude **/.config/hub
# GitLab's command line
exclude **/.config/glab-cli/
# npm: tokens of registries
exclude .npmrc
# yarn: tokens of registries
exclude .yarnrc.yml
# PyPI: passwords for uploads
exclude .pypirc
# pip: passwords of indexes
exclude pip.conf
# Docker: logins of registries
exclude **/.docker/config.json
# Podman, skopeo: logins of registries
exclude **/containers/auth.json
# Kubernetes: a user's clusters
exclude .kube/
# Kubernetes: keys of a node and of the control plane
exclude /etc/kubernetes/pki/
# Kubernetes: logins of the control plane
exclude /etc/kubernetes/*.conf
# Kubernetes: keys of the kubelet
exclude /var/lib/kubelet/pki/
# k3s: token and keys of a cluster
exclude /var/lib/rancher/k3s/server/
# k3s: login of the administrator
exclude /etc/rancher/k3s/k3s.yaml
# Helm: logins of registries
exclude **/helm/registry/config.json
# Cargo: tokens of registries
exclude **/.cargo/credentials*
# RubyGems: keys
exclude **/.gem/credentials
# Composer: tokens
exclude **/composer/auth.json
# Maven: passwords of repositories
exclude **/.m2/settings*.xml
# Gradle: passwords of repositories
exclude **/.gradle/gradle.properties
# HashiCorp Vault
exclude .vault-token
# PostgreSQL: passwords
exclude .pgpass
# MySQL: passwords
exclude .my.cnf
# MySQL: the maintenance account of Debian
exclude /etc/mysql/debian.cnf
# apt: passwords of archives
exclude /etc/apt/auth.conf*
# browsers and desktops: keyrings
exclude **/.local/share/keyrings/
# logins of coding agents
exclude **/.claude/.credentials.json
# logins of coding agents
exclude **/.codex/auth.json
`,
  'secrets-history': `
# what was typed at shells and clients, passwords too
exclude .*_history
# zsh, ksh and others
exclude .history
# zsh
exclude .zhistory
# fish
exclude **/fish/fish_history
# less: what was searched for
exclude .lesshst
# vim: registers and commands
exclude .viminfo
# wget: what was fetched
exclude .wget-hsts
`,
  'secrets-env': `
# settings of programs with their passwords
exclude .env
# settings of programs with their passwords
exclude .env.local
# settings of programs with their passwords
exclude .env.*.local
# settings of programs with their passwords
exclude .env.development
# settings of programs with their passwords
exclude .env.production
# settings of programs with their passwords
exclude .env.staging
# settings of programs with their passwords
exclude .env.test
# direnv
exclude .envrc
`,
  'secrets-keys': `
# GnuPG: private keys
exclude .gnupg/
# pass: the password store
exclude .password-store/
# age, sops: keys
exclude **/.config/sops/
# private keys of certificates
exclude /etc/ssl/private/
# private keys of certificates
exclude /etc/pki/tls/private/
# Let's Encrypt: private keys
exclude /etc/letsencrypt/archive/
# Let's Encrypt: private keys
exclude /etc/letsencrypt/keys/
# Let's Encrypt: private keys, by another name
exclude /etc/letsencrypt/live/
# Let's Encrypt: the account
exclude /etc/letsencrypt/accounts/
# private keys, wherever they are
exclude privkey*.pem
# private keys in the places of people and services
exclude /root/**/*.key
# private keys in the places of people and services
exclude /home/**/*.key
# private keys in the places of people and services
exclude /srv/**/*.key
# private keys in the places of people and services
exclude /etc/**/*.key
# bundles of certificate and private key
exclude *.p12
# bundles of certificate and private key
exclude *.pfx
# Java's key stores
exclude *.jks
# PuTTY: private keys
exclude *.ppk
# KeePass: password stores
exclude *.kdbx
# WireGuard: private keys
exclude /etc/wireguard/
# IPsec: shared secrets
exclude /etc/ipsec.secrets
# IPsec: private keys
exclude /etc/ipsec.d/private/
# NetworkManager: passwords of networks
exclude /etc/NetworkManager/system-connections/
# wpa_supplicant: passwords of networks
exclude /etc/wpa_supplicant/*.conf
`,
};

/** Names of the offered policies. */
export const SECRETS: readonly string[] = OFFERED_POLICIES;

/** The text of an offered policy, or null. */
export function secretsText(name: string): string | null {
  return Object.hasOwn(TEXTS, name) ? TEXTS[name as keyof typeof TEXTS].trimStart() : null;
}
