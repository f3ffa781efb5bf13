from vocabkit_cli.app import main

main()
