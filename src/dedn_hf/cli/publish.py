"""
Publishes a model folder on the Hub, in one commit, after loading it as its users will.

    hf auth login
    dedn publish --model outputs/synthetic_birds --repo_id NAMESPACE/dedn-birds

The Hub is the one that HF_ENDPOINT names, if set. There is no --token: others on the machine could see it.
"""

from pathlib import Path

from . import CommandParser


def main(arguments: list[str]):
    parser = CommandParser("dedn publish", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument(
        "--repo_id", required=True, help="NAMESPACE/NAME, or a name in the namespace of the token's owner"
    )
    parser.add_argument("--private", action="store_true", help="make a repository that nobody else sees")
    parser.add_argument("--revision", help="branch to commit to; the default is main")
    parser.add_argument("--dry_run", action="store_true", help="check, list what would go, and ask nothing of the Hub")
    args = parser.parse_args(arguments)

    from ..hub import check_loading, files_to_push, push_to_hub

    files = files_to_push(args.model)
    total = f"{len(files)} files, {_size(sum(files.values()))}"
    if args.dry_run:
        check = check_loading(args.model)
        for name, count in files.items():
            print(f"{_size(count):>10}  {name}")
        staying = sorted(file.name + "/" * file.is_dir() for file in args.model.iterdir() if file.name not in files)
        print(f"Would go to {args.repo_id}: {total}. Would stay: {', '.join(staying) or 'nothing'}.")
        print("Loads without this package: " + ", ".join(f"{key} {value}" for key, value in check.items()))
        return
    commit = push_to_hub(args.model, args.repo_id, private=args.private, revision=args.revision)
    repo_id = commit.repo_url.repo_id
    print(f"Pushed {total}: {commit.commit_url}")
    print(f'AutoModel.from_pretrained("{repo_id}", trust_remote_code=True, revision="{commit.oid}")')


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
