"""Licences as their clauses alone: enough to be recognised, not the texts themselves."""

MIT_HEAD = """Copyright (c) 2020 Some Body

Permission is hereby granted, free of charge, to any person obtaining a copy of this
software, to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of it"""
MIT = f"""MIT License

{MIT_HEAD}, with the above copyright notice and this permission notice.
It is provided "AS IS".
"""
MIT_0 = f'{MIT_HEAD}. It is provided "as is".\n'
BSD_HEAD = """Copyright 2020, Some Body. All rights reserved.

Redistribution and use in source and binary forms, with or without modification, are
permitted provided that the following conditions are met:
1. Redistributions of source code must retain the above copyright notice.
2. Redistributions in binary form must reproduce the above copyright notice."""
BSD_2 = f'{BSD_HEAD}\nIt is provided "AS IS".\n'
BSD_NAME = (
    "3. No name is used to endorse or promote products derived from this software without leave."
)
BSD_3 = f'{BSD_HEAD}\n{BSD_NAME}\nIt is provided "AS IS".\n'
ADVERTISING = "3. All advertising materials mentioning features or use of this software say so."
BSD_4 = f'{BSD_HEAD}\n{ADVERTISING}\n{BSD_NAME}\nIt is provided "AS IS".\n'
APACHE = """                Apache License
           Version 2.0, January 2004
TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION
1. Definitions. 2. Grant of Copyright License. 3. Grant of Patent License. 4. Redistribution.
5. Submission of Contributions. 6. Trademarks. 7. Disclaimer of Warranty.
8. Limitation of Liability.
"""
APACHE_NOTICE = """Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
"""
GPL = "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n"
