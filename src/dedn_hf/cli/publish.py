"""
Publishes a model folder on the Hub, in one commit, after loading it as its users will.

    hf auth login
    dedn publish --model outputs/synthetic_birds --repo_id NAMESPACE/dedn-birds
    dedn publish --space NAMESPACE/birds --dry_run    # the folder of a Space with the page of `dedn demo`

The Hub is the one that HF_ENDPOINT names, if set. There is no --token: others on the machine could see it.
"""

from pathlib import Path

from . import CommandParser


def main(arguments: list[str]):
    parser = CommandParser("dedn publish", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of the model (for a Space by default the built-in one)")
    parser.add_argument("--repo_id", help="NAMESPACE/NAME, or a name in the namespace of the token's owner")
    parser.add_argument("--space", metavar="NAMESPACE/NAME", help="write the folder of a Space instead")
    parser.add_argument("--output_dir", type=Path, help="that folder (default: outputs/NAME)")
    parser.add_argument("--private", action="store_true", help="make a repository that nobody else sees")
    parser.add_argument("--revision", help="branch to commit to; the default is main")
    parser.add_argument("--dry_run", action="store_true", help="check, list what would go, and ask nothing of the Hub")
    args = parser.parse_args(arguments)
    if args.space is not None:
        if args.repo_id is not None or args.private or args.revision is not None:
            parser.error("--space writes a folder, and takes no --repo_id, --private or --revision")
        if not args.dry_run:
            parser.error("--space writes a folder with --dry_run; `hf upload` then sends it")
        _write_space(args.space, args.model, args.output_dir or Path("outputs", args.space.split("/")[-1]))
        return
    if args.model is None or args.repo_id is None or args.output_dir is not None:
        parser.error("name the --model and its --repo_id, or a --space")

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


def _write_space(space: str, model: Path | None, folder: Path):
    from ..hub.space import write_space

    for file in write_space(folder, space, model):
        print(f"{_size(file.stat().st_size):>10}  {file.relative_to(folder)}")
    print(f"{folder}: python app.py runs it, once requirements.txt is installed. To the Hub:")
    print(f"hf repo create {space} --repo-type space --space_sdk gradio")
    print(f"hf upload {space} {folder} . --repo-type space")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
