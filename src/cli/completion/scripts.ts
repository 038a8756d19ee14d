/** The completion scripts of bash and zsh. Both ask `strata __complete`, so they never go stale. */

export function completionScript(shell: 'bash' | 'zsh'): string {
  return shell === 'bash' ? BASH : ZSH;
}

const BASH = `# bash completion for strata
_strata() {
    local current=\${COMP_WORDS[COMP_CWORD]} line then=:none word
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :*) then=$line ;;
            *)
                word=\${line%%$'\\t'*}
                COMPREPLY+=("$word")
                [[ $word == */ ]] && compopt -o nospace
                ;;
        esac
    done < <("\${COMP_WORDS[0]}" __complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    case $then in
        :files)
            compopt -o filenames
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$current")
            ;;
        :dirs)
            compopt -o filenames
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -d -- "$current")
            ;;
    esac
}
complete -F _strata strata
`;

const ZSH = `#compdef strata
# zsh completion for strata
_strata() {
    local line then=:none word text
    local -a found slashed
    while IFS= read -r line; do
        case $line in
            :*) then=$line ;;
            *)
                word=\${line%%$'\\t'*}
                text=\${line#*$'\\t'}
                if [[ $word == */ ]]; then
                    slashed+=("$word")
                else
                    found+=("\${word//:/\\\\:}:$text")
                fi
                ;;
        esac
    done < <("\${words[1]}" __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)
    (( \${#slashed} )) && compadd -S '' -- $slashed
    (( \${#found} )) && _describe 'strata' found
    case $then in
        :files) _files ;;
        :dirs) _files -/ ;;
    esac
    return 0
}
if [[ $funcstack[1] == _strata ]]; then
    _strata "$@"
else
    compdef _strata strata
fi
`;
